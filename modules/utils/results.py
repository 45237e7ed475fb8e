"""Result tables: csv files with a header, appended row by row."""
from __future__ import annotations

import csv
import io
from pathlib import Path

from modules.utils.csv_files import read_rows
from modules.utils.errors import UserError
from modules.utils.files import append, atomic_write


def append_row(path: str | Path, row: dict) -> None:
    """Append `row` to the csv file `path`, whose first row is the header. UserError if the header is another one."""
    append_rows(path, [row])


def append_rows(path: str | Path, rows: list[dict]) -> None:
    """Append `rows`, which have the same keys, as `append_row` does."""
    path, header = Path(path), list(rows[0])
    begun = path.is_file() and path.stat().st_size
    if begun:
        _, found = next(read_rows(path, "table"), (0, []))
        if found != header:
            raise UserError(f"{str(path)!r} has the columns {','.join(found)}; "
                            f"expected {','.join(header)}. Move it away")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header)
    if not begun:
        writer.writeheader()
    writer.writerows(rows)
    append(path, text.getvalue().encode())


def write_rows(path: str | Path, rows: list[dict]) -> None:
    """Write `rows`, which have the same keys, as the csv file `path`, atomically."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def format_table(rows: list[dict]) -> str:
    """`rows` as text in aligned columns, the keys of the first row as header."""
    if not rows:
        return "(no rows)"
    cells = [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
