"""Classes by name: labels of a data set mapped to those of a model, and classes compared with those of an earlier
run."""
from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from modules.datasets.build import Data, DataInfo
from modules.datasets.sources import ImageSource
from modules.utils.errors import UserError
from modules.utils.notes import say

_SHOWN = 10  # names of a list in a message
_PADDING = re.compile(r"unused\d+")  # names of the outputs that --n_classes adds


def follow_classes(data: Data, known: Sequence[str], model: str, named: bool = True) -> Data:
    """`data` with the classes `known`, and labels that number these: an image of class "b" gets 1 of ("a", "b").

    Other orders and subsets are mapped, and a line says so. Without names (`named` false, as for published files) the
    classes cannot be compared: they are taken in their order, and a line says so.

    Args:
        known: the model's classes, one for each output.
        model: words for the model in messages, such as "checkpoint 'a.pth'".

    Raises:
        UserError: a class that the model does not know; without names, more classes than outputs.
    """
    given = data.info.classes
    if not named:
        _take_by_position(data.info, known, model)
        mapping = np.arange(len(given))
    else:
        mapping = _mapping(data.info, known, model)
    info = dataclasses.replace(data.info, classes=tuple(known))
    parts = {id(source): _relabelled(source, info.classes, mapping) for source in (data.train, data.valid, data.test)}
    return dataclasses.replace(data, info=info, **{
        name: parts[id(getattr(data, name))] for name in ("train", "valid", "test")})


def _take_by_position(info: DataInfo, known: Sequence[str], model: str) -> None:
    given = info.classes
    if len(given) > len(known):
        raise UserError(f"data set {info.where} has {len(given)} classes; {model} has {len(known)} outputs; allowed: "
                        "as many or fewer")
    fewer = "" if len(given) == len(known) else f"; {model} has {len(known)}, so these are hardly its classes"
    say(f"warning: the classes of {model} have no names; the {len(given)} classes of data set {info.where} in their "
        f"order ({listed(given)}) are taken for its first outputs{fewer}")


def _mapping(info: DataInfo, known: Sequence[str], model: str) -> np.ndarray:
    given, number = info.classes, {name: i for i, name in enumerate(known)}
    unknown = [name for name in given if name not in number]
    if unknown:
        raise UserError(f"data set {info.where} has classes that {model} does not know: {listed(unknown)}; allowed: "
                        f"{listed(known)}")
    mapping = np.array([number[name] for name in given])
    missing = [name for name in known if name not in given and not _PADDING.fullmatch(name)]
    if missing:
        say(f"data set {info.where} has {len(given)} of the {len(given) + len(missing)} classes of {model}: "
            f"{listed(given)}")
    if (np.diff(mapping) < 0).any():
        say(f"the classes of data set {info.where} come in another order than those of {model}; labels follow the "
            "model's")
    return mapping


def _relabelled(source: ImageSource, classes: tuple[str, ...], mapping: np.ndarray) -> ImageSource:
    """The same images, held ones too, with other labels."""
    source = copy.copy(source)
    source.classes, source.labels = classes, mapping[source.labels]
    return source


def check_same_classes(before: Sequence[str], now: Sequence[str], path: str) -> None:
    """UserError if a run that continues from the file `path`, of classes `before`, has other classes or another
    order."""
    if tuple(before) == tuple(now):
        return
    gone, new = ([name for name in one if name not in other] for one, other in ((before, now), (now, before)))
    change = "in another order" if not gone and not new else " and ".join(
        f"{verb} {listed(names)}" for verb, names in (("without", gone), ("with", new)) if names)
    raise UserError(f"the classes are not those of {path!r}: now {change}; allowed: {listed(before)}, or a run of its "
                    "own from the start")


def check_enough_classes(info: DataInfo) -> None:
    """UserError if the data set has a single class: there is nothing to learn."""
    if len(info.classes) < 2:
        raise UserError(f"data set {info.where} has one class, {listed(info.classes)}; allowed: 2 or more")


def listed(names: Sequence[str]) -> str:
    """Names for a message, only the first few of many: "a, b, c", "a, b, c, ... (1000)"."""
    shown = ", ".join(map(str, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown}, ... ({len(names)})"
