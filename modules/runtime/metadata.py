"""The metadata of an exported model file: text, some of it JSON, checked when it is read."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.search_space.preprocessing import EVAL_CROP, Preprocessing
from modules.utils.errors import UserError, shorten
from modules.utils.json_files import parse_json

_CHANNELS = 3
_LEAST_CROP = 0.01
_MOST_PIXELS = 1 << 14  # of a side of an image


class Metadata(dict):
    """Metadata of a model file: text by key. `where` names the file in a UserError."""

    def __init__(self, values: Mapping[str, str], path: str | Path | bytes):
        super().__init__(values)
        self.where = f"model {'(bytes)' if isinstance(path, bytes) else str(path)!r}"


def read_preprocessing(metadata: Mapping[str, str], default: Preprocessing | None = None) -> Preprocessing:
    """The preprocessing of a model file; what it does not hold is that of `default`. UserError with the file and key if
    values are bad, or missing without a default (a missing `eval_crop` is the published one)."""
    mean, std = (default.mean, default.std) if default and "mean" not in metadata else read_normalization(metadata)
    return Preprocessing(read_crop_size(metadata, default.crop_size if default else None),
                         read_eval_crop(metadata, default.eval_crop if default else EVAL_CROP), tuple(mean), tuple(std))


def read_normalization(metadata: Mapping[str, str]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, for pixels in 0..1; UserError with the file and key if they are
    bad."""
    mean, std = (_json(metadata, key, [float]) for key in ("mean", "std"))
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != _CHANNELS or (key == "std" and min(values) <= 0):
            raise UserError(f"{model_name(metadata)}: metadata {key} is {shorten(values)}; expected {_CHANNELS} numbers"
                            f"{' above 0' if key == 'std' else ''}")
    return mean, std


def read_classes(metadata: Mapping[str, str]) -> list[str]:
    """The names of the classes, in the order of the logits. UserError that names the model if there are none."""
    classes = _json(metadata, "classes", [str])
    if not classes:
        raise UserError(f"{model_name(metadata)}: metadata classes is []; expected at least one name")
    return classes


def has_class_names(metadata: Mapping[str, str]) -> bool:
    """Whether the names of the classes are a data set's. A published checkpoint has none; its names are made up. An
    untrained model has none either."""
    return bool(metadata.get("dataset")) and "classes" in metadata


def read_crop_size(metadata: Mapping[str, str], default: int | None = None) -> int:
    """Size of loaded images in pixels; `default`, if given, for a file without it. UserError for a size out of
    range."""
    if default is not None and "crop_size" not in metadata:
        return default
    size = _json(metadata, "crop_size", int)
    if not 0 < size <= _MOST_PIXELS:
        raise UserError(f"{model_name(metadata)}: metadata crop_size is {size}; expected pixels from 1 to "
                        f"{_MOST_PIXELS}")
    return size


def read_eval_crop(metadata: Mapping[str, str], default: float) -> float:
    """Part of the side that the centre crop of evaluation keeps; `default` for a file without it. UserError
    for a part out of range."""
    if "eval_crop" not in metadata:
        return default
    part = _json(metadata, "eval_crop", float)
    if not _LEAST_CROP <= part <= 1:
        raise UserError(f"{model_name(metadata)}: metadata eval_crop is {part}; expected {_LEAST_CROP} to 1")
    return part


def model_name(metadata: Mapping[str, str]) -> str:
    """The name of the model file, for messages."""
    return getattr(metadata, "where", "the model")


def _json(metadata: Mapping[str, str], key: str, form):
    return parse_json(_value(metadata, key), f"{model_name(metadata)}: metadata {key}", form)


def _value(metadata: Mapping[str, str], key: str) -> str:
    if key not in metadata:
        held = f"they hold: {shorten(', '.join(metadata))}" if metadata else "they are empty"
        raise UserError(f"{model_name(metadata)}: metadata have no {key!r}; {held}. Was it exported with weights?")
    return metadata[key]
