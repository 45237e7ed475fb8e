"""What an image source is, and what all kinds share: decoding, and giving labels to a list of found files."""

import io
import struct

import numpy as np

from modules.utils.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


class ImageSource:
    """Labelled images, numbered from 0.

    `classes` is a tuple of names, `labels` an int64 array that indexes it, `image(i)` a PIL image in RGB. A source may
    be pickled or inherited by DataLoader workers at any time.
    """

    def __init__(self, classes, labels):
        self.classes = tuple(map(str, classes))
        self.labels = np.asarray(labels, dtype=np.int64)
        self.held = None  # (indices, their pixels as one tensor), once batches are made from it

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        raise NotImplementedError

    def prepare(self, indices):
        """Do now, in this process, what would otherwise be repeated by each worker. Most sources have no such work."""


class ArraySource(ImageSource):
    """Images that are in memory from the start, as one uint8 array [N, H, W, 3]."""

    def __init__(self, pixels, classes, labels):
        super().__init__(classes, labels)
        self.pixels = pixels

    def image(self, index):
        from PIL import Image

        return Image.fromarray(self.pixels[index])


class EncodedSource(ImageSource):
    """Images that lie somewhere as encoded files. A kind says how to `read` one and what its name is in a message."""

    def read(self, index):
        """Return the bytes of the encoded image."""
        raise NotImplementedError

    def where(self, index):
        """Return the place of the image, for error messages."""
        raise NotImplementedError

    def image(self, index):
        return decode(self.read(index), self.where(index))

    def size(self, index):
        """Return (width, height) from the file's header, without decoding the pixels."""
        return _open(self.read(index), self.where(index), lambda image: image.size)


def decode(data, where):
    """Return the RGB image encoded in `data`. Raises UserError naming `where` if it is damaged."""
    return _open(data, where, lambda image: image.convert("RGB"))


def _open(data, where, use):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return use(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        # Pillow's plugins report damage with any of these; the text of some names only an internal buffer.
        unnamed = isinstance(error, Image.UnidentifiedImageError) or not str(error)
        reason = type(error).__name__ if unnamed else str(error)
        raise UserError(f"cannot decode the image {where} ({reason}); allowed: {', '.join(IMAGE_SUFFIXES)}") from error


def is_image_name(name):
    """Tell whether a file name is an image's. Hidden files (such as the ones macOS adds) are not."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def arrange(found, where, layout, classes=None):
    """Give labels to files and bring them into an order that does not depend on how they are stored.

    `found` is an iterable of (class name, file name, payload). Returns (classes, labels, payloads), sorted by class and
    file name, so that the same images give the same numbering, and with it the same split, from folders, zip or tar.
    With `classes` given (the training set's) labels index these. Raises UserError naming `where` and the allowed
    `layout` if there is no image, or one of a class that `classes` lacks.
    """
    found = sorted(found, key=lambda item: item[:2])
    if not found:
        raise UserError(f"no images in {where}; allowed: {layout}")
    present = sorted({item[0] for item in found})
    if classes is None:
        classes = present
    number = {name: i for i, name in enumerate(classes)}
    foreign = [name for name in present if name not in number]
    if foreign:
        raise UserError(f"class {foreign[0]!r} in {where} is not among the {len(number)} training classes; "
                        f"allowed: {layout}, with the same classes in both parts")
    return tuple(classes), [number[item[0]] for item in found], [item[2] for item in found]
