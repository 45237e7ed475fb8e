"""Result tables: csv files with a header, appended row by row."""
from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.utils.csv_files import delimiter_of, parse_rows
from modules.utils.errors import UserError
from modules.utils.files import append, atomic_write
from modules.utils.text import UTF16, decode_text, read_bytes


def append_row(path: str | Path, row: dict) -> None:
    """Append `row` to the csv file `path`, whose first row is the header.

    Raises:
        UserError: the header is another one, or the file is not UTF-8 with commas, as after a spreadsheet.
    """
    append_rows(path, [row])


def append_rows(path: str | Path, rows: list[dict]) -> None:
    """Append `rows`, which have the same keys, as `append_row` does. Lines end as those of the file do."""
    path, header = Path(path), list(rows[0])
    before = read_bytes(path, "table") if path.exists() else b""
    end, added = "\r\n" if b"\r\n" in before else "\n", io.StringIO(newline="")
    writer = csv.DictWriter(added, header, lineterminator=end)
    if before:
        _check_table(before, header, f"table {str(path)!r}")
        if not before.endswith((b"\n", b"\r")):
            added.write(end)
    else:
        writer.writeheader()
    writer.writerows(rows)
    append(path, added.getvalue().encode())


def _check_table(content: bytes, header: list[str], where: str) -> None:
    """UserError unless rows with the columns `header` may follow."""
    text = decode_text(content, where)
    _, found = next(parse_rows(text, where), (0, []))
    if found != header:
        raise UserError(f"{where} has the columns {','.join(found)}; expected {','.join(header)}. Move it away")
    delimiter, utf16 = delimiter_of(text), content.startswith(UTF16)
    if utf16 or delimiter != ",":
        fault = "is UTF-16" if utf16 else f"has {delimiter!r} between its fields"
        raise UserError(f"{where} {fault}, as spreadsheets write it; expected UTF-8 with commas. Move it away")


def write_rows(path: str | Path, rows: list[dict]) -> None:
    """Write `rows`, which have the same keys, as the csv file `path`, atomically."""
    header = list(rows[0])
    assert all(row.keys() == rows[0].keys() for row in rows), header
    write_table(path, header, ([row[name] for name in header] for row in rows))


def write_table(path: str | Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """The same for rows without keys, in the order of `header`."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def format_table(rows: list[dict]) -> str:
    """`rows` as text in aligned columns, the keys of the first row as header."""
    if not rows:
        return "(no rows)"
    cells = [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
