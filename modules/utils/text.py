"""Text files that others wrote: bounded in size, UTF-8; every fault is one line that names the file."""
from __future__ import annotations

import codecs
from pathlib import Path

from modules.utils.errors import UserError
from modules.utils.files import fault_of_file

MAX_TEXT = 64 << 20  # bytes; far above every file that the project writes
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_bytes(path: str | Path, what: str, limit: int = MAX_TEXT) -> bytes:
    """The contents of the file `path`. `what` names the kind of file in a message, such as "latency table".

    Raises:
        UserError: it is missing, no regular file, not readable, or larger than `limit` bytes.
    """
    path = Path(path)
    try:
        if path.exists() and (fault := fault_of_file(path)):
            raise UserError(f"{what} {str(path)!r} {fault}")
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{what} {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > limit:
        raise UserError(f"{what} {str(path)!r} is larger than {limit} bytes, the most that is read")
    return content


def read_text(path: str | Path, what: str, limit: int = MAX_TEXT) -> str:
    """The text of the file `path`, read as in `read_bytes`. A byte order mark is dropped; with one, UTF-16 is read too.

    Raises:
        UserError: as `read_bytes`; text that is not UTF-8, or holds a NUL.
    """
    return decode_text(read_bytes(path, what, limit), f"{what} {str(path)!r}")


def decode_text(content: bytes, where: str) -> str:
    """`content` as text, in the same way; `where` names it in the UserError."""
    encoding = "utf-16" if content.startswith(UTF16) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not {encoding.removesuffix('-sig').upper()} text: byte {error.start} is "
                        f"{content[error.start]:#04x}") from None
    if "\0" in text:
        raise UserError(f"{where} is not text: character {text.index(chr(0))} is NUL")
    return text
