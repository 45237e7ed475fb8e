"""The one decoder of image files to 8-bit RGB images, for data sets and for predictions.

Formats are listed by name: a file's contents never choose among all formats of Pillow (PostScript would start
Ghostscript). Every pixel format becomes 8 bits without loss of the picture. The picture is turned upright.
"""
from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from modules.utils.errors import UserError
from modules.utils.text import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")  # Pillow's names; PPM includes PGM and PBM
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
MAX_PIXELS = 2 * (2**30 // 4 // 3)  # Pillow's own limit of an image: 179 million pixels
MAX_BYTES = 3 * MAX_PIXELS          # of an encoded image: the size of the largest image without compression, 512 MiB
SCALED_MODES = {"I": "32-bit integers", "F": "floating-point numbers"}  # modes whose range no format states
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")  # Pillow's mode I means 16 bits in these
_PLAIN = {"La": "LA", "RGBa": "RGBA"}  # colours multiplied by alpha, and the mode without the factor
_ORIENTATION = 0x0112                  # tag of EXIF and TIFF
_BITS, _PHOTOMETRIC = 258, 262         # tags of TIFF: bits per sample; 0: zero is white
_STRIP = 2**20                         # pixels that are scaled at a time


class Header(NamedTuple):
    """Facts in a file's first bytes: width and height of the stored picture in pixels, and Pillow's name of the
    mode."""

    width: int
    height: int
    mode: str


def decode(data: bytes, where: str) -> Image:
    """The image in the bytes `data`, upright, in mode RGB, 8 bits per channel.

    16-bit grey is scaled by 1/257. 32-bit and float values are scaled by the first range that holds them all: 0..1,
    0..255, (integers only) 0..65535, or from the smallest to the largest value. `info["scaled"]` then holds the range.
    Transparent parts become white. An animation gives its first picture.

    Raises:
        UserError: another format, damaged or truncated data, more than MAX_PIXELS pixels, values that are not finite;
            `where` is named.
    """
    return _open(data, where, _upright_rgb)


def decode_file(path: str | Path) -> Image:
    """`decode` of the file `path`; also UserError if it cannot be read or is larger than MAX_BYTES."""
    return decode(read_bytes(path, "image", MAX_BYTES), str(path))


def read_header(data: bytes, where: str) -> Header:
    """The header of an encoded image, without decoding its pixels; errors as of `decode`."""
    return _open(data, where, lambda image: Header(*image.size, image.mode))


def is_image_name(name: str) -> bool:
    """Whether a file name is that of an image. Hidden files, such as those of macOS, are not."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


@cache
def _pillow() -> ModuleType:
    from PIL import Image

    return Image


def _open(data: bytes, where: str, use: Callable[[Image], Result]) -> Result:
    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd tags, and about sizes within the limit
            with pillow.open(io.BytesIO(data), formats=FORMATS) as image:
                return use(image)
    except pillow.DecompressionBombError as error:
        raise UserError(f"image {where} is too large ({error}); allowed: up to {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's plugins report damage with any exception; some only name a buffer
        unnamed = isinstance(error, pillow.UnidentifiedImageError) or not str(error)
        reason = type(error).__name__ if unnamed else " ".join(str(error).split())
        raise UserError(f"cannot decode the image {where} ({reason}); allowed: {', '.join(IMAGE_SUFFIXES)}") from error


def _upright_rgb(image: Image) -> Image:
    image.load()
    turned, (eight_bit, scaled) = _turned(image), _eight_bit(image)
    rgb = _over_white(eight_bit)
    if turned is not None:
        rgb = rgb.transpose(turned)
    rgb.info = {"scaled": scaled} if scaled else {}
    return rgb


def _turned(image: Image) -> int | None:
    """The transposition that turns the stored picture upright; None if it is upright. Damaged EXIF is ignored."""
    turns = _pillow().Transpose
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # as of `_open`; the picture itself is whole
        return None
    return {2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
            6: turns.ROTATE_270, 7: turns.TRANSVERSE, 8: turns.ROTATE_90}.get(orientation)


def _eight_bit(image: Image) -> tuple[Image, str]:
    """The image with 8 bits per channel, and the range that its values were scaled from if the format states none."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BIT_FORMATS):
        values, (bits, from_white) = np.asarray(image), _tiff_greys(image)
        top = 2**bits - 1
        if from_white:
            values = top - np.minimum(values, top)
        grey = _grey(values, lambda rows: (255 * np.clip(rows, 0, top).astype(np.uint32) + top // 2) // top)
        if isinstance(clear := image.info.get("transparency"), int):
            grey.putalpha(_grey(values, lambda rows: 255 * (rows != clear)))
        return grey, ""
    if image.mode in SCALED_MODES:
        values = np.asarray(image)
        low, high = _range(values, image.mode)
        factor = 255 / (high - low) if high > low else 0.0
        return _grey(values, lambda rows: np.rint((rows.astype(float) - low) * factor)), f"{low:g} to {high:g}"
    return image, ""


def _tiff_greys(image: Image) -> tuple[int, bool]:
    """Bits of a grey level, and whether 0 is white, of a picture with up to 16 bits; Pillow leaves both to its
    callers."""
    tags = getattr(image, "tag_v2", None) or {}
    (bits, *_), photometric = tags.get(_BITS, (16,)), tags.get(_PHOTOMETRIC, 1)
    return min(bits, 16), photometric == 0


def _range(values: np.ndarray, mode: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise ValueError("it has values that are not finite")
    for limit in (1, 255, 65535) if mode == "I" else (1, 255):
        if low >= 0 and high <= limit:
            return 0.0, float(limit)
    return low, high


def _grey(values: np.ndarray, level: Callable[[np.ndarray], np.ndarray]) -> Image:
    """The grey image of `level(values)`, both [height, width], such as [480, 640]. It is computed in strips to save
    memory."""
    grey = np.empty(values.shape, np.uint8)
    rows = max(_STRIP // values.shape[1], 1)
    for top in range(0, len(values), rows):
        grey[top:top + rows] = level(values[top:top + rows])
    return _pillow().fromarray(grey)


def _over_white(image: Image) -> Image:
    pillow = _pillow()
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert(_PLAIN.get(image.mode, image.mode)).convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image).convert("RGB")
