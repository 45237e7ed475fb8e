"""A data set given by its path: the search for one of the allowed layouts."""
from __future__ import annotations

import os

from modules.datasets import archives, files
from modules.datasets.sources import EncodedSource
from modules.utils.errors import UserError

# (training part, validation part, how to open one, description), tried in this order
LAYOUTS = (
    (*archives.TAR_NAMES, archives.open_tar, archives.TAR_LAYOUT),
    ("train", "val", files.open_class_folders, files.LAYOUT),
    (*archives.ZIP_NAMES, archives.open_zip, archives.ZIP_LAYOUT),
)


VALIDATION_STEP = 10  # of unlabelled images, every tenth is for validation


def open_unlabelled(path: str) -> tuple[EncodedSource, EncodedSource]:
    """The sources below `path` for tools that need no labels: as of `open_path` where a layout is there, whose `train`
    and `val` may lack folders of classes; otherwise all image files in the folder and the folders in it, every tenth
    for validation. UserError if there are not two."""
    there = set(os.listdir(path)) if os.path.isdir(path) else set()
    if {"train", "val"} <= there and not set(archives.TAR_NAMES) <= there:
        parts = [os.path.join(path, part) for part in ("train", "val")]
        if all(map(os.path.isdir, parts)) and not files.has_folders(parts[0]):
            sources = [files.open_images(part) for part in parts]
            if all(map(len, sources)):
                return sources[0], sources[1]
    if not os.path.isdir(path) or any(train in there and val in there for train, val, *_ in LAYOUTS):
        return open_path(path)
    source = files.open_images(path)
    if len(source) < 2:
        raise UserError(f"{len(source)} images in {str(path)!r}; allowed: two or more image files, or a folder with "
                        f"{'; or '.join(layout[-1] for layout in LAYOUTS)}")
    train = [path for i, path in enumerate(source.paths) if i % VALIDATION_STEP]
    return files.unlabelled(train), files.unlabelled(source.paths[::VALIDATION_STEP])


def open_path(path: str) -> tuple[EncodedSource, EncodedSource]:
    """The training and the validation source below `path`; UserError if no layout is there with both parts."""
    allowed = "; or ".join(layout[-1] for layout in LAYOUTS)
    if not os.path.isdir(path):
        raise UserError(f"data set folder {str(path)!r} does not exist; allowed: a folder with {allowed}")
    there = set(os.listdir(path))
    for train, val, open_part, _ in LAYOUTS:
        if train in there and val in there:
            train_source = open_part(os.path.join(path, train))
            return train_source, open_part(os.path.join(path, val), classes=train_source.classes)
    missing = [val if train in there else train for train, val, *_ in LAYOUTS if there & {train, val}]
    what = f"{missing[0]!r} is missing" if missing else "no data set found"
    raise UserError(f"{what} in {str(path)!r}; allowed: {allowed}")
