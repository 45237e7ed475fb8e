"""The measurements as a csv file that grows by whole lines; a killed profile continues from it."""
from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from modules.latency.profile.measure import Measurement
from modules.utils.csv_files import parse_rows
from modules.utils.errors import UserError, shorten
from modules.utils.files import append
from modules.utils.text import decode_text, read_bytes


@dataclass(frozen=True)
class Row:
    """One measurement: its `role` (block, correction, test1, test2), its name, and the fields of a `Measurement`.

    `peak_mb` is the memory of the model, nan if it was not asked for; `seconds` is the time of the measurement.
    """

    role: str
    name: str
    ms: float
    reference_ms: float
    median_ms: float
    rounds: int
    seconds: float
    peak_mb: float = float("nan")

    @staticmethod
    def of(role: str, name: str, measured: Measurement, seconds: float, peak_mb: float = float("nan")) -> Row:
        """From a `Measurement`; milliseconds to 10 ns."""
        values = (round(v, 5) for v in (measured.ms, measured.reference_ms, measured.median_ms))
        return Row(role, name, *values, measured.rounds, round(seconds, 3), round(peak_mb, 2))


HEADER = [field.name for field in fields(Row)]


def _parse(fields: list[str]) -> Row:
    """A row from its text; ValueError or TypeError if it is none."""
    role, name, *numbers, rounds, seconds, peak = fields
    ms, reference, median = map(float, numbers)
    row = Row(role, name, ms, reference, median, int(rounds), float(seconds), float(peak))
    times = (row.ms, row.reference_ms, row.median_ms, row.seconds)
    if not all(math.isfinite(v) and v >= 0 for v in times) or row.rounds < 0 or math.isinf(row.peak_mb):
        raise ValueError
    return row


class Journal:
    """The rows of the csv file `path`, by role and name."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.rows: dict[tuple[str, str], Row] = {}
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        content = read_bytes(self.path, "measurements")
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # killed while a line was written
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
        where = f"measurements {str(self.path)!r}"
        lines = parse_rows(decode_text(whole, where), where)
        _, header = next(lines, (0, HEADER))
        if header != HEADER:
            raise UserError(f"{where} has the columns {shorten(','.join(header))}; expected {','.join(HEADER)}")
        for number, line in lines:
            try:
                row = _parse(line)
            except (ValueError, TypeError):
                raise UserError(f"{where}, line {number}: {shorten(','.join(line))} is no measurement") from None
            self.rows[row.role, row.name] = row

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows that belong together. If the process dies meanwhile, only the first few may be kept."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.path.is_file() or not self.path.stat().st_size:
            writer.writerow(HEADER)
        writer.writerows(astuple(row) for row in rows)
        append(self.path, text.getvalue().encode())
        self.rows |= {(row.role, row.name): row for row in rows}

    def of(self, role: str) -> list[Row]:
        """All rows of a role, in the order of measurement."""
        return [row for row in self.rows.values() if row.role == role]

    @property
    def seconds(self) -> float:
        """Seconds of all measurements together."""
        return sum(row.seconds for row in self.rows.values())
