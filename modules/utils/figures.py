"""Figures without pyplot: they need no display and keep no global state."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modules.utils.errors import UserError
from modules.utils.files import atomic_write

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # told apart by colour-blind readers


def figure_of(table: str | Path) -> Path:
    """The PNG beside the csv file `table`; UserError if the csv file is itself called so."""
    path = Path(table).with_suffix(".png")
    if path == Path(table):
        raise UserError(f"{str(table)!r} is the name of the figure; allowed for the table: a name that ends in .csv")
    return path


def new_figure(width: float, height: float):
    """An empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path: str | Path) -> None:
    """Write `figure` to `path` as PNG, atomically."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)


def interval_errors(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[float]]:
    """The lengths below and above `values` of their intervals, for `errorbar`; none is below 0, which it refuses."""
    return [[max(value - end, 0.0) for value, end in zip(values, low, strict=True)],
            [max(end - value, 0.0) for value, end in zip(values, high, strict=True)]]
