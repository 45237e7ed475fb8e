"""Checks that a zip archive of stored members is whole: its sizes are those in its directory, its checksums hold.

torch's own reader computes no checksum: a flipped bit becomes a weight.
"""
from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

from modules.utils.errors import UserError

_MAGIC, _CHUNK = b"PK\x03\x04", 1 << 20
_MOST_MEMBERS = 1_000_000
# OSError: a place in the file before its beginning
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, NotImplementedError,
          RuntimeError)


def is_zip(path: str | Path) -> bool:
    """Whether the file begins as a zip archive does."""
    with open(path, "rb") as file:
        return file.read(4) == _MAGIC


def check_stored_archive(path: str | Path, where: str) -> None:
    """Read every member of the zip file `path` once and compare its checksum; about 1 s for 1 GB.

    Members must be stored, not compressed, and take no more than the file together: then no member grows in memory.

    Raises:
        UserError: the archive is damaged or compressed; `where` and the member are named.
    """
    member = None
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(members, Path(path).stat().st_size, where)
            for member in members:
                with archive.open(member) as file:
                    while file.read(_CHUNK):
                        pass
    except DAMAGE as error:
        name = f" in member {member.filename!r}" if member else ""
        raise UserError(f"{where} is damaged{name}: {error or type(error).__name__}") from None


def _check_sizes(members: list[zipfile.ZipInfo], size: int, where: str) -> None:
    if len(members) > _MOST_MEMBERS:
        raise UserError(f"{where} has {len(members)} members; at most {_MOST_MEMBERS} are read")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{where} is packed: member {member.filename!r} is compressed to {member.compress_size} of "
                            f"{member.file_size} bytes; allowed: stored members, as torch.save writes them")
    stated = sum(member.file_size for member in members)
    if stated > size:
        raise UserError(f"{where} is damaged: its members would take {stated} bytes, the file has {size}")
