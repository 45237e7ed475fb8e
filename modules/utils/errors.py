"""The one exception that means "the user gave something that cannot work"."""
import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

LONGEST = 2400  # characters of a message


class UserError(Exception):
    """Bad input. The message is one line: the offending value, its place and the allowed values. A message of more than
    `LONGEST` characters loses its middle."""

    def __init__(self, message: str = ""):
        if len(message) > LONGEST:
            message = f"{message[:LONGEST // 2]} ... {message[-LONGEST // 2:]}"
        super().__init__(message)


class NotFinite(UserError):
    """Tensors became NaN or infinite; the file that would hold them is not written."""


def check_choice(value: T, allowed: Iterable[T], what: str) -> T:
    """Return `value` if it is one of `allowed`; otherwise raise UserError naming both. `what` names the kind of
    value."""
    allowed = list(allowed)
    if value not in allowed:
        raise UserError(f"unknown {what} {shorten(value, 120)}; allowed: {', '.join(map(str, allowed))}")
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """The name of `known` that is most like `name`; '' if none is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")


def first_line(error: Exception) -> str:
    """The first line of an exception's message, at most 200 characters of it, or its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def shorten(value: object, length: int = 80) -> str:
    """`value` as a message shows it: its repr, cut to `length` characters."""
    text = repr(value[:length] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= length else f"{text[:length - 3]}..."
