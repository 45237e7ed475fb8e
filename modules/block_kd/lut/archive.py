"""The place of a block table: a csv file in the folder of its superspace, or a member of the archive there."""
from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path

from modules.utils.archives.stored import DAMAGE
from modules.utils.errors import UserError
from modules.utils.text import MAX_TEXT, decode_text, read_text

ARCHIVE = "tables.zip"  # many tables as one small file

TableFile = Path | zipfile.Path  # both read alike, and both print as a place in the file system


def find_table(folder: Path, name: str) -> TableFile | None:
    """The table `name` of `folder`, such as stage1_0_0.csv. A file wins over a member of the archive.

    Raises:
        UserError: an archive that cannot be read.
    """
    if (folder / name).is_file():
        return folder / name
    archive = folder / ARCHIVE
    if not archive.is_file():
        return None
    member = zipfile.Path(_open(archive, archive.stat().st_mtime_ns), name)
    return member if member.is_file() else None


def read_table(table: TableFile) -> str:
    """The text of a table; UserError if it is damaged, not text, or larger than `MAX_TEXT` bytes."""
    if isinstance(table, Path):
        return read_text(table, "block table")
    try:
        with table.open("rb") as file:
            content = file.read(MAX_TEXT + 1)
    except DAMAGE as error:
        raise UserError(f"block table {str(table)!r} cannot be read: {error}") from None
    if len(content) > MAX_TEXT:
        raise UserError(f"block table {str(table)!r} is larger than {MAX_TEXT} bytes, the most that is read")
    return decode_text(content, f"block table {str(table)!r}")


@lru_cache(maxsize=2)
def _open(archive: Path, _changed: int) -> zipfile.ZipFile:
    # The index of an archive is read once for all its tables, and again when the file has changed.
    try:
        return zipfile.ZipFile(archive)
    except DAMAGE as error:
        raise UserError(f"block tables {str(archive)!r} cannot be read: {error}") from None
