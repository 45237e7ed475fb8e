"""Result tables: csv files with a header, appended row by row."""
from __future__ import annotations

import csv
from pathlib import Path

from modules.utils.errors import UserError
from modules.utils.files import atomic_write


def append_row(path: str | Path, row: dict) -> None:
    """Append `row` to the csv file `path`, which is begun with a header; UserError if its header is another."""
    append_rows(path, [row])


def append_rows(path: str | Path, rows: list[dict]) -> None:
    """Append `rows`, which have the same keys, as `append_row` does."""
    path, header = Path(path), list(rows[0])
    begun = path.is_file() and path.stat().st_size
    if begun:
        with open(path, newline="") as file:
            found = next(csv.reader(file))
        if found != header:
            raise UserError(f"{str(path)!r} has the columns {','.join(found)}; "
                            f"expected {','.join(header)}. Move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, header)
        if not begun:
            writer.writeheader()
        writer.writerows(rows)


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
