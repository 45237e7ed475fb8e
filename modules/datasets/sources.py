"""Image sources, and the common parts of all kinds: labels for a list of found files, and a count of the others."""
from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from modules.datasets.decode import Header, decode, is_image_name, read_header
from modules.utils.errors import UserError
from modules.utils.notes import say

if TYPE_CHECKING:
    from PIL.Image import Image

DIGESTED = 1000  # files whose bytes count in the digest of a large set

class ImageSource:
    """Labelled images, numbered from 0.

    `classes` is a tuple of names, `labels` an int64 array that indexes it, `image(i)` a PIL image in RGB. A source may
    be pickled or inherited by DataLoader workers at any time.
    """

    def __init__(self, classes: Iterable[str], labels: Sequence[int] | np.ndarray):
        self.classes = tuple(map(str, classes))
        self.labels = np.asarray(labels, dtype=np.int64)
        self.held: dict = {}  # the HeldPixels of batches from memory, by device

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image:
        """Image `index` in RGB."""
        raise NotImplementedError

    def array(self, index: int) -> np.ndarray:
        """Image `index` as uint8 [H, W, 3]."""
        return np.asarray(self.image(index))

    def prepare(self, indices: Iterable[int]) -> None:
        """Do work now, in this process, that each worker would otherwise repeat. Most sources have no such work."""

    def digest(self) -> str:
        """64 hex digits that differ for other images."""
        raise NotImplementedError


class ArraySource(ImageSource):
    """Images that are in memory from the start, as one uint8 array [N, H, W, 3]."""

    def __init__(self, pixels: np.ndarray, classes: Iterable[str], labels: Sequence[int] | np.ndarray):
        super().__init__(classes, labels)
        self.pixels = pixels

    def image(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.pixels[index])

    def array(self, index: int) -> np.ndarray:
        return self.pixels[index]

    def digest(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.pixels)).hexdigest()


class EncodedSource(ImageSource):
    """Images in encoded files. A kind implements `read`, and `where`, which names an image in a message."""

    def read(self, index: int) -> bytes:
        """Return the bytes of the encoded image."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Return the place of the image, for error messages."""
        raise NotImplementedError

    def image(self, index: int) -> Image:
        return decode(self.read(index), self.where(index))

    def digest(self, most: int = DIGESTED) -> str:
        """As of every source: of the names of all files, without their folders, and of the bytes of `most` of them,
        evenly spaced."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(f"{self.where(index).rpartition('/')[2]}\n".encode("utf-8", "surrogateescape"))
        for index in np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int)).tolist():
            digest.update(self.read(index))
        return digest.hexdigest()

    def header(self, index: int) -> Header:
        """Width, height and mode from the file's first bytes, without decoding the pixels."""
        return read_header(self.read(index), self.where(index))


class PassedOver:
    """Files in `where` that are no image of a class, counted by kind. `say` reports them in one line."""

    def __init__(self, where: str):
        self.where, self.kinds, self.example = where, Counter(), ""

    def add(self, name: str, kind: str = "") -> None:
        """Count the file `name`, by its suffix if no `kind` is given. Hidden files without an image's name do not
        count: systems leave them behind."""
        base = name.rpartition("/")[2]
        if not kind and base.startswith("."):
            if not is_image_name(base.lstrip("._")):
                return
            kind = "hidden"
        self.kinds[kind or PurePosixPath(base).suffix.lower() or "without a suffix"] += 1
        self.example = self.example or name

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common(6))
        more = len(self.kinds) - 6
        return f"{self.kinds.total()} files passed over in {self.where}: {kinds}" + (
            f" and {more} other kinds" if more > 0 else "") + f"; such as {self.example}"

    def say(self) -> None:
        """Report the files, if there are any."""
        if self.kinds:
            say(str(self))


def arrange(found: Iterable[tuple[str, str, Any]], where: str, layout: str, classes: Sequence[str] | None = None
            ) -> tuple[tuple[str, ...], list[int], list]:
    """Give labels to files, and put them into an order that does not depend on their storage.

    The order is that of torchvision's ImageFolder: by class, then folder within the class, then file name. The same
    images then have the same numbers and the same split in folders, zip and tar.

    Args:
        found: (class name, file name with the folders within the class, payload) of each image.
        classes: of the training part, for the other part; labels then index these.

    Returns:
        The class names, the labels int64 (n,), and the payloads in the same order.

    Raises:
        UserError: no image, a class that `classes` lacks, a class name that is no text, or two that differ only in the
            encoding of their accents. `where` and the allowed `layout` are named.
    """
    names: dict[str, str] = {}
    found = [(_class_name(name, where, names), *_folder_and_file(file), payload) for name, file, payload in found]
    found.sort(key=lambda item: item[:3])
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
    return tuple(classes), [number[item[0]] for item in found], [item[3] for item in found]


def _folder_and_file(path: str) -> tuple[str, str]:
    folder, _, file = path.rpartition("/")
    return folder, file


def _class_name(name: str, where: str, names: dict[str, str]) -> str:
    """The name with composed accents (macOS takes them apart, others do not). `names` collects the original names."""
    if name in names:
        return names[name]
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the name of the class {name!r} in {where} is not UTF-8; allowed: names in UTF-8") from None
    composed = unicodedata.normalize("NFC", name)
    if composed in names.values():
        raise UserError(f"class {composed!r} is twice in {where}, its accents encoded in two ways; allowed: one folder "
                        "for each class")
    names[name] = composed
    return composed
