"""The metadata of a model file, as the export writes them: text, some of it JSON, checked when it is read."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.utils.errors import UserError
from modules.utils.json_files import parse_json
from modules.utils.text import shorten

_CHANNELS = 3
_MOST_PIXELS = 1 << 14  # of a side of an image


class Metadata(dict):
    """What a model file says of itself: text by key. `where` names the file in a UserError."""

    def __init__(self, values: Mapping[str, str], path: str | Path | bytes):
        super().__init__(values)
        self.where = f"model {'(bytes)' if isinstance(path, bytes) else str(path)!r}"


def read_normalization(metadata: Metadata) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of pixels in 0..1; UserError that names the file and key otherwise."""
    mean, std = (_json(metadata, key, [float]) for key in ("mean", "std"))
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != _CHANNELS or (key == "std" and min(values) <= 0):
            raise UserError(f"{metadata.where}: metadata {key} is {shorten(values)}; expected {_CHANNELS} numbers"
                            f"{' above 0' if key == 'std' else ''}")
    return mean, std


def read_classes(metadata: Metadata) -> list[str]:
    """The names of the classes, in the order of the logits."""
    classes = _json(metadata, "classes", [str])
    if not classes:
        raise UserError(f"{metadata.where}: metadata classes is []; expected at least one name")
    return classes


def read_crop_size(metadata: Metadata) -> int:
    """Size in pixels at which images are loaded."""
    text = _value(metadata, "crop_size")
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 0 < int(text) <= _MOST_PIXELS):
        raise UserError(f"{metadata.where}: metadata crop_size is {shorten(text)}; expected pixels from 1 to "
                        f"{_MOST_PIXELS}")
    return int(text)


def _json(metadata: Metadata, key: str, form):
    return parse_json(_value(metadata, key), f"{metadata.where}: metadata {key}", form)


def _value(metadata: Metadata, key: str) -> str:
    if key not in metadata:
        held = f"they hold: {shorten(', '.join(metadata))}" if metadata else "they are empty"
        raise UserError(f"{metadata.where}: metadata have no {key!r}; {held}. Was it exported with weights?")
    return metadata[key]
