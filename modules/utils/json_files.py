"""JSON that others wrote: read within bounds and checked against the form a reader needs."""
from __future__ import annotations

import json
import math
from pathlib import Path

from modules.utils.errors import UserError, shorten
from modules.utils.text import MAX_TEXT, read_text

MAX_DEPTH = 64
_MAX_DIGITS = 100  # of a whole number: the state of a random generator has 39, and a float holds 308
_NAMES = {float: "a number", int: "a whole number", str: "text", bool: "true or false", list: "a list",
          dict: "an object", type(None): "null"}


def read_json(path: str | Path, what: str, form=dict, finite: bool = True, limit: int = MAX_TEXT):
    """The contents of the JSON file `path`, which have `form` (see `check_form`).

    `what` names the kind of file in a message. With `finite` false, NaN and Infinity may stand in it.

    Raises:
        UserError: a file that cannot be read (`read_text`), is no JSON, is nested more than MAX_DEPTH deep, holds a
            number that is not finite, or is of another form; the file and the place in it are named.
    """
    return parse_json(read_text(path, what, limit), f"{what} {str(path)!r}", form, finite)


def parse_json(text: str, where: str, form=dict, finite: bool = True):
    """The same for JSON in memory; `where` names it in the UserError."""
    try:
        content = json.loads(text, parse_int=_whole, parse_float=_finite if finite else float,
                             parse_constant=_constant if finite else float)
    except RecursionError:
        raise UserError(f"{where} is nested too deeply; at most {MAX_DEPTH} levels are read") from None
    except ValueError as error:
        raise UserError(f"{where} is not JSON that can be read: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(content) > MAX_DEPTH:
        raise UserError(f"{where} is nested too deeply; at most {MAX_DEPTH} levels are read")
    return check_form(content, form, where)


def check_form(value, form, where: str, at: str = ""):
    """Return `value` if it has `form`; otherwise raise UserError that names `where` and the place in it.

    A form is a type (`float` takes whole numbers too, and nothing but finite ones; `int` takes 64 bits), a tuple of
    forms of which one holds, `[form]` for a list of such values, `{str: form}` for an object of such values, or
    `{"key": form, ...}` for an object that has these keys, and perhaps others. `[float, str]` is a list of just two.

    Example: check_form({"ms": {"a": 1}}, {"ms": {str: float}}, "cache") returns its first argument.
    """
    fault = _fault(value, form, at)
    if fault:
        raise UserError(f"{where}: {fault}")
    return value


def _fault(value, form, at: str) -> str:
    if isinstance(form, tuple):
        faults = [_fault(value, one, at) for one in form]
        return "" if "" in faults else faults[0] if len(faults) == 1 else _other(value, at, form)
    if isinstance(form, list):
        return _list_fault(value, form, at)
    if isinstance(form, dict):
        return _object_fault(value, form, at)
    return "" if _is(value, form) else _other(value, at, (form,))


def _list_fault(value, form: list, at: str) -> str:
    if not isinstance(value, (list, tuple)):
        return _other(value, at, (list,))
    if len(form) > 1 and len(value) != len(form):
        return f"{at or 'it'} has {len(value)} entries; expected {len(form)}"
    forms = form if len(form) > 1 else form * len(value)
    return next((f for i, v in enumerate(value) if (f := _fault(v, forms[i], f"{at}[{i}]"))), "")


def _object_fault(value, form: dict, at: str) -> str:
    if not isinstance(value, dict):
        return _other(value, at, (dict,))
    if set(form) == {str}:
        return next((f for k, v in value.items() if (f := _fault(v, form[str], _join(at, k)))), "")
    missing = [key for key in form if key not in value]
    if missing:
        held = f"holds: {shorten(', '.join(map(str, value)))}" if value else "holds nothing"
        return f"{at + ' has ' if at else ''}no {missing[0]!r}; it {held}"
    return next((f for k, one in form.items() if (f := _fault(value[k], one, _join(at, k)))), "")


def _is(value, kind: type) -> bool:
    if kind is float:
        return is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2 ** 63) <= value < 2 ** 63
    return isinstance(value, kind)


def is_finite(value) -> bool:
    """Whether `value` is a number, whole or not, and neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _other(value, at: str, forms: tuple) -> str:
    kinds = {list: list, dict: dict}
    names = dict.fromkeys(_NAMES.get(kinds.get(type(f), f), str(f)) for f in forms)
    return f"{at or 'it'} is {shorten(value)}; expected {' or '.join(names)}"


def _join(at: str, key: str) -> str:
    key = str(key)[:80]
    return f"{at}.{key}" if at else key


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits; at most {_MAX_DIGITS} are read")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


def _constant(name: str):
    raise ValueError(f"{name} is no finite number")


def _depth(content) -> int:
    depth, level = 0, [content]
    while level:
        depth += 1
        level = [inner for value in level if isinstance(value, (dict, list))
                 for inner in (value.values() if isinstance(value, dict) else value)]
    return depth
