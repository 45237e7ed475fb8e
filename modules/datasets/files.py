"""Images that are single files on disk."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from modules.datasets.decode import MAX_BYTES, is_image_name
from modules.datasets.sources import EncodedSource, PassedOver, arrange
from modules.utils.errors import UserError
from modules.utils.text import read_bytes

LAYOUT = "<path>/train/<class>/<image files> and <path>/val/<class>/<image files>"


class FileSource(EncodedSource):
    """One image file per entry of `paths`."""

    def __init__(self, paths: Iterable[str | Path], classes: Iterable[str], labels: Sequence[int] | np.ndarray):
        super().__init__(classes, labels)
        self.paths = list(map(str, paths))

    def where(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> bytes:
        try:
            return read_bytes(self.paths[index], "image", MAX_BYTES)
        except UserError as error:
            raise UserError(f"{error}; allowed: image files that stay where they were listed") from error


def unlabelled(paths: Iterable[str]) -> FileSource:
    """Image files, all of one class."""
    paths = list(paths)
    return FileSource(paths, ("unlabelled",), [0] * len(paths))


def open_images(folder: str) -> FileSource:
    """All image files in `folder` and the folders in it, in the order of their paths, all of one class."""
    passed = PassedOver(folder)
    source = unlabelled(sorted(os.path.join(folder, name) for name in _images_below(folder, passed)))
    passed.say()
    return source


def open_class_folders(folder: str, classes: Sequence[str] | None = None) -> FileSource:
    """The source of `<folder>/<class>/<image files>`, also of files in folders within a class's folder.

    A class folder without any image is refused in the training part: it would shift the labels unnoticed.

    Args:
        classes: of the training part, for the other part.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder; allowed: {LAYOUT}")
    found, passed = [], PassedOver(folder)
    with os.scandir(folder) as entries:
        entries = list(entries)
    for entry in entries:
        if not _is_folder(entry):
            passed.add(entry.name, "outside of class folders" if is_image_name(entry.name) else "")
        elif not entry.name.startswith("."):
            images = [(entry.name, name, os.path.join(entry.path, name)) for name in _images_below(entry.path, passed)]
            if not images and classes is None:
                reason = f" ({passed})" if passed.kinds else ""
                raise UserError(f"no images in the class folder {entry.path}{reason}; allowed: {LAYOUT}")
            found.extend(images)
    classes, labels, paths = arrange(found, folder, LAYOUT, classes)
    passed.say()
    return FileSource(paths, classes, labels)


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether `entry` is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def has_folders(folder: str) -> bool:
    """Whether there are folders in `folder`, such as those of classes."""
    with os.scandir(folder) as entries:
        return any(_is_folder(entry) for entry in entries)


def _images_below(folder: str, passed: PassedOver) -> Iterator[str]:
    """The images in `folder` and the folders in it, links followed, as paths relative to it. Other files go to
    `passed`."""
    pending = [("", frozenset())]
    while pending:
        inside, above = pending.pop()
        path = os.path.join(folder, inside)
        status = os.stat(path)
        this = status.st_dev, status.st_ino
        if this in above:
            passed.add(path, "link to a folder above it")
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                name = os.path.join(inside, entry.name)
                if _is_folder(entry):
                    if not entry.name.startswith("."):
                        pending.append((name, above | {this}))
                elif is_image_name(entry.name):
                    yield name
                else:
                    passed.add(os.path.join(folder, name))
