"""The decoder: every mode against its 8-bit copy, orientation, transparency, and files that are no images."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from image_trees import one_line
from PIL import Image

from modules.datasets.decode import MAX_PIXELS, SCALED_MODES, decode, decode_file, read_header
from modules.utils.errors import UserError

RAMP = (np.add.outer(np.arange(40), np.arange(40)) * 3.2).astype(np.uint8)  # 0 to 249


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data, where="x"):
    return np.asarray(decode(data, where)).astype(int)


# ---- modes ----

@pytest.mark.parametrize(("kind", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">"), ("PPM", "<")])
def test_16_bit_grey_looks_like_its_8_bit_copy(kind, order):
    image = Image.fromarray((RAMP.astype(np.uint16) * 257).astype(f"{order}u2"))
    assert np.array_equal(pixels(encoded(image, kind)), np.repeat(RAMP[..., None], 3, axis=2))


def tiff(values, bits, photometric):
    """A grey picture as an uncompressed TIFF file, written by the letter of the TIFF 6.0 specification."""
    height, width = values.shape
    levels = "".join(f"{level:0{bits}b}" for level in values.ravel().tolist())
    data = values.astype("<u2").tobytes() if bits == 16 else int(levels, 2).to_bytes(len(levels) // 8, "big")
    tags = ((256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height),
            (279, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("bits", "photometric"), [(8, 0), (8, 1), (12, 1), (16, 0), (16, 1)])  # Pillow reads no others
def test_grey_levels_of_tiff_go_from_black_to_white(bits, photometric):
    values = np.linspace(0, 2**bits - 1, 64).round().astype(int).reshape(8, 8)
    grey = pixels(tiff(values, bits, photometric))[..., 0]
    expected = np.linspace(0, 255, 64).reshape(8, 8)
    assert np.abs(grey - (expected if photometric else 255 - expected)).max() <= 1


def test_16_bit_grey_is_rounded():
    grey = pixels(encoded(Image.fromarray(np.array([[0, 128, 129, 65535]], np.uint16))))[0, :, 0]
    assert grey.tolist() == np.rint(np.array([0, 128, 129, 65535]) / 257).tolist()


@pytest.mark.parametrize(("values", "told", "expected"), [
    (RAMP / np.float32(255), "0 to 1", RAMP),
    (RAMP.astype(np.float32), "0 to 255", RAMP),
    (RAMP.astype(np.float32) * 100 - 300, "-300 to 24600", np.rint(RAMP * (255 / RAMP.max()))),
    (RAMP.astype(np.int32), "0 to 255", RAMP),
    (RAMP.astype(np.int32) * 257, "0 to 65535", RAMP),
    (RAMP.astype(np.int32) * -5000, "-1.245e+06 to 0", np.rint(255 - RAMP * (255 / RAMP.max()))),
    ((RAMP > 99).astype(np.int32), "0 to 1", 255 * (RAMP > 99)),
    (np.full((3, 4), 7e9, np.float32), "7e+09 to 7e+09", np.zeros((3, 4))),
])
def test_values_without_a_stated_range_are_scaled_by_their_own(values, told, expected):
    data = encoded(Image.fromarray(values.astype(values.dtype)), "TIFF")
    assert read_header(data, "x").mode in SCALED_MODES
    image = decode(data, "x")
    assert image.info["scaled"] == told
    assert np.abs(np.asarray(image)[..., 2] - expected).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    values = np.zeros((4, 4), np.float32)
    values[2, 1] = value
    with pytest.raises(UserError) as error:
        decode(encoded(Image.fromarray(values), "TIFF"), "x.tif")
    one_line(error, "x.tif", "finite")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "RGBX"])
def test_other_modes_keep_their_colours(mode):
    colours = Image.fromarray(np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8).repeat(8, 0).repeat(8, 1))
    if mode == "LAB":  # Pillow writes no LAB from RGB without a profile
        lab = np.zeros((8, 16, 3), np.uint8)
        lab[:, :8, 0] = 255
        image = Image.frombytes("LAB", (16, 8), lab.tobytes())
    else:
        image = colours.convert("RGB").convert(mode)
    got = pixels(encoded(image, "TIFF"))
    assert np.abs(got - np.asarray(colours)).max() <= 2


# ---- transparency ----

@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_alpha_lies_over_white(mode):
    alpha = np.zeros((32, 32), np.uint8)
    alpha[8:24, 8:24], alpha[0, 0] = 255, 102
    image = Image.fromarray(np.dstack([np.zeros((32, 32, 3), np.uint8), alpha])).convert("RGBA")
    expected = 255 - alpha.astype(int)[..., None].repeat(3, axis=2)
    image = image.quantize(8) if mode == "PA" else image.convert(mode)  # a palette with transparent entries
    assert np.abs(pixels(encoded(image)) - expected).max() <= 1


@pytest.mark.parametrize(("image", "clear"), [
    (Image.fromarray(np.array([[0, 9]], np.uint8)), 0),
    (Image.fromarray(np.array([[0, 9 * 257]], np.uint16)), 0),
    (Image.fromarray(np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8)), (0, 0, 0)),
])
def test_a_transparent_colour_is_white(image, clear):
    assert pixels(encoded(image, transparency=clear))[0, :, 1].tolist() == [255, 9]


def test_opaque_colours_are_untouched():
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    colours[..., 3] = 255
    assert np.array_equal(pixels(encoded(Image.fromarray(colours))), colours[..., :3])


# ---- orientation ----

@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation):
    """Against the definition: the tag says where the stored row 0 and column 0 are in the picture."""
    upright = np.random.default_rng(1).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
              8: np.rot90(upright, -1)}[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels(data), upright)


def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(Image.fromarray(RAMP), "JPEG", exif=b"Exif\0\0not a directory", quality=95)
    assert np.abs(pixels(data)[..., 0] - RAMP).max() <= 8


# ---- refusals ----

def test_postscript_does_not_start_ghostscript(tmp_path, monkeypatch):
    mark = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "photo.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n%%EOF\n")
    with pytest.raises(UserError) as error:
        decode_file(tmp_path / "photo.jpg")
    one_line(error, "photo.jpg", ".png")
    assert not mark.exists()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_too_many_pixels_are_refused_before_they_are_decoded():
    header = struct.pack(">IIBBBBB", 20000, MAX_PIXELS // 20000 + 1, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    for use in (decode, read_header):
        with pytest.raises(UserError) as error:
            use(data, "scan.png")
        one_line(error, "scan.png", MAX_PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "TIFF", "GIF", "WEBP"])
def test_a_truncated_image_is_named(kind):
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)), kind)
    for end in (0, 1, 7, len(data) // 2):
        with pytest.raises(UserError) as error:
            decode(data[:end], f"cut.{kind}")
        one_line(error, f"cut.{kind}")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "TIFF", "GIF", "WEBP"])
def test_damaged_bytes_give_a_picture_or_one_line(kind):
    data = encoded(Image.fromarray(RAMP).convert("RGB"), kind)
    rng, messages = np.random.default_rng(0), []
    for _ in range(40):
        damaged = bytearray(data)
        for place in rng.integers(0, min(len(data), 200), 3):
            damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged), "x").mode == "RGB"
        except UserError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in (".", "pipe.png", "nowhere.png"):
        with pytest.raises(UserError, match="image"):
            decode_file(tmp_path / name)
