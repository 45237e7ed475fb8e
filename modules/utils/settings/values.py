"""One value from the text of a command line or from a yaml file, and how an error shows it."""
from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from modules.utils.errors import shorten

TYPE_NAMES = {int: "INT", float: "FLOAT", bool: "true|false", str: "TEXT", Path: "PATH"}


def plain(value) -> str:
    """`value` as an error shows it beside its option: without quotes, cut if it is long."""
    return shorten(value).strip("'\"") if isinstance(value, str) else shorten(value)


def _int(value):
    """A whole number, from text such as '300' or '3e2'. inf and nan stay: the bounds refuse them."""
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    number = float(value)
    if not math.isfinite(number):
        return number
    if number != int(number):
        raise ValueError
    return int(number)


def _float(value) -> float:
    if isinstance(value, bool):
        raise ValueError
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _bool(value) -> bool:
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
    if not isinstance(value, bool):
        raise ValueError
    return value


def _text(value) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | type(None)):
        raise ValueError
    return "" if value is None else str(value)


READERS: dict[type, Callable] = {int: _int, float: _float, bool: _bool, str: _text,
                                 Path: lambda value: Path(_text(value))}
"""How a value of each kind is read. They raise ValueError, TypeError, OverflowError or KeyError."""
