"""The points that a run passes, one for each mini-epoch, and which of them are worth keeping."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from modules.utils.csv_files import read_rows
from modules.utils.errors import UserError, shorten
from modules.utils.results import write_rows

TABLE, FOLDER, STATE = "points.csv", "weights", "adj.pth"
DECIMALS = 6  # of the score in a file's name
_RULE = re.compile(r"\s*(accuracy\s*>=|score\s*<=)\s*(\d+(?:\.\d*)?|\.\d+)\s*%?\s*")
RULES = "accuracy>=<percent>, score<=<number>"


@dataclass(frozen=True)
class Point:
    """Accuracy in percent and score at the end of a mini-epoch; `average`: of the averaged weights."""

    mini_epoch: int
    average: bool
    top1: float
    score: float

    @property
    def file(self) -> str:
        """Where its network is, in the run's folder; points of one score share the place, for one of them is kept."""
        return "adj_swa.pth" if self.average else f"{FOLDER}/ckpt_metric_{self.score:.{DECIMALS}f}.pth"

    def beats(self, other: Point) -> bool:
        """Whether it is at least as good in both, and not the same in both unless it is the earlier one. Scores count
        with the decimals of the file's name."""
        score, others = round(self.score, DECIMALS), round(other.score, DECIMALS)
        if (self.top1, score) == (other.top1, others):
            return (self.mini_epoch, self.average) < (other.mini_epoch, other.average)
        return self.top1 >= other.top1 and score <= others


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats, by ascending score."""
    points = list(points)
    return sorted((p for p in points if not any(q.beats(p) for q in points)), key=lambda p: p.score)


def write_points(folder: Path, points: Iterable[Point]) -> None:
    """The table of the points that are kept, and no file of a network besides theirs and those that only the average
    beats: a continued run has another average."""
    points = list(points)
    kept = front(points)
    write_rows(folder / TABLE, [asdict(p) | {"file": p.file} for p in kept])
    files = {p.file for p in front(p for p in points if not p.average)}
    for path in (folder / FOLDER).glob("*.pth"):
        if f"{FOLDER}/{path.name}" not in files:
            path.unlink()


def pick(points: Sequence[Point], rule: str) -> Point:
    """The point of the lowest score with `accuracy>=75`, or of the highest accuracy with `score<=0.3`.

    Raises:
        UserError: another rule, or no point that keeps it; the nearest one is named.
    """
    match = _RULE.fullmatch(rule)
    if not match:
        raise UserError(f"--pick {shorten(rule)}; allowed: {RULES}")
    bound = float(match[2])
    if match[1].startswith("accuracy"):
        fitting = [p for p in points if p.top1 >= bound]
        best, nearest = min(fitting, key=lambda p: (p.score, -p.top1), default=None), max(points, key=lambda p: p.top1)
    else:
        fitting = [p for p in points if p.score <= bound]
        best, nearest = max(fitting, key=lambda p: (p.top1, -p.score), default=None), min(points, key=lambda p: p.score)
    if best is None:
        raise UserError(f"--pick {rule}: no point of the run keeps it; the nearest one has an accuracy of "
                        f"{nearest.top1:.2f} at a score of {nearest.score:.4f}")
    return best


def read_points(folder: Path) -> list[Point]:
    """The table that `write_points` wrote; UserError where it is missing, empty or damaged."""
    path = folder / TABLE
    try:
        (_, header), *rows = read_rows(path, "table of points")
        points = [_point(dict(zip(header, fields, strict=True))) for _, fields in rows]
    except (ValueError, KeyError) as error:
        raise UserError(f"table of points {str(path)!r} is damaged ({error}); expected the one of adj_quant/train.py"
                        ) from None
    if not points:
        raise UserError(f"table of points {str(path)!r} has no rows")
    return points


def _point(row: dict[str, str]) -> Point:
    return Point(int(row["mini_epoch"]), row["average"] == "True", float(row["top1"]), float(row["score"]))


def chosen_file(path: str | Path, rule: str = "") -> Path:
    """The file that `path` and `--pick` mean: itself, or in the folder of a run the picked point's, or the last one.

    UserError as `pick` and `read_points`, or for a rule where `path` is a file.
    """
    path = Path(path)
    if not rule:
        return path / STATE if path.is_dir() else path
    if not path.is_dir():
        raise UserError(f"--pick {rule}: {str(path)!r} is no folder; expected that of a run, among whose points it "
                        "chooses")
    return path / pick(read_points(path), rule).file
