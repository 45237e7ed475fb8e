"""Tables in csv files: our own, and those that spreadsheets save."""
from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from modules.utils.errors import UserError, shorten
from modules.utils.text import read_text

_DELIMITERS = ",;\t"


def read_rows(path: str | Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of every row of the csv file `path` that is neither empty nor a comment (#).

    A byte order mark, quotes, CRLF, and semicolons or tabs between the fields are taken as spreadsheets write them.
    Fields are stripped. `what` names the kind of file in a message.

    Raises:
        UserError: a file that cannot be read (`read_text`), or a row that is no csv; the line is named.
    """
    yield from parse_rows(read_text(path, what), f"{what} {str(path)!r}")


def parse_rows(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The same for a table in memory; `where` names it in the UserError."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True, skipinitialspace=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{where}, line {reader.line_num}: {error}") from None
        if row is None:
            return
        fields = [field.strip() for field in row]
        if any(fields) and not fields[0].startswith("#"):
            yield reader.line_num, fields


def read_records(path: str | Path, what: str, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, row) of every row below the header of the csv file `path`; place is the file and line.

    Raises:
        UserError: as `read_rows`; a header that lacks one of `columns`, or a row with another number of fields.
    """
    rows, where = read_rows(path, what), f"{what} {str(path)!r}"
    _, header = next(rows, (0, []))
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(f"{where} has no column {missing[0]!r}; it has: {shorten(','.join(header))}")
    for number, row in rows:
        place = f"{where}, line {number}"
        if len(row) != len(header):
            raise UserError(f"{place}: {len(row)} fields in {shorten(','.join(row))}; expected {len(header)}: "
                            f"{','.join(header)}")
        yield place, dict(zip(header, row, strict=True))


def delimiter_of(text: str) -> str:
    """The separator that is most frequent outside quotes in the first line with one; a comma where no line has one."""
    for line in text[:100_000].splitlines():
        bare = "".join(line.split('"')[::2])
        if not line.lstrip().startswith("#") and any(mark in bare for mark in _DELIMITERS):
            return max(_DELIMITERS, key=bare.count)
    return ","
