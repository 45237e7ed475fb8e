"""Block tables as one figure: loss over latency of every row, per stage and block."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modules.block_kd.lut.tables import row_numbers
from modules.search_space.superspace import get_superspace
from modules.utils.csv_files import read_rows
from modules.utils.errors import UserError
from modules.utils.figures import new_figure, save_figure

COLUMNS = 3


def draw_tables(folder: str | Path, superspace: str, platform: str) -> Path:
    """Write `<folder>/lut_report.png` from the existing tables; returns its path."""
    from matplotlib.ticker import LogLocator, NullFormatter

    space, folder = get_superspace(superspace), Path(folder)
    rows = -(-len(space.searched) // COLUMNS)
    figure = new_figure(4 * COLUMNS, 3.2 * rows)
    for stage, axes in zip(space.searched, figure.subplots(rows, COLUMNS, squeeze=False).flat, strict=False):
        for block, candidate in enumerate(space.candidates):
            points = [point for path in sorted(folder.glob(f"{stage.name}_{block}_*.csv")) for point in _points(path)]
            if points:
                latency, loss = np.array(points).T
                axes.scatter(latency, loss, s=4, alpha=0.5, label=f"{block} {candidate.block}")
        axes.set(title=stage.name, xlabel=f"latency on {platform}, ms", ylabel="loss", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(),
                                                                             strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, markerscale=3, fontsize=8)
    save_figure(figure, folder / "lut_report.png")
    return folder / "lut_report.png"


def _points(path: Path) -> Iterator[tuple[float, float]]:
    """Latency (ms) and loss of every row; UserError that names a bad one."""
    for number, fields in read_rows(path, "block table"):
        try:
            loss, _, _, latency = row_numbers(fields)
        except ValueError as error:
            raise UserError(f"block table {str(path)!r}, line {number}: {error}") from None
        yield latency, loss
