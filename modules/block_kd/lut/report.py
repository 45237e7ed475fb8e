"""Block tables as one figure: loss over latency of every row, per stage and block."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.search_space.superspace import get_superspace
from modules.utils.figures import new_figure, save_figure

COLUMNS = 3


def draw_tables(folder: str | Path, superspace: str, platform: str) -> Path:
    """Write `<folder>/lut_report.png` from the tables there are; returns its path."""
    from matplotlib.ticker import LogLocator, NullFormatter

    space, folder = get_superspace(superspace), Path(folder)
    rows = -(-len(space.searched) // COLUMNS)
    figure = new_figure(4 * COLUMNS, 3.2 * rows)
    for stage, axes in zip(space.searched, figure.subplots(rows, COLUMNS, squeeze=False).flat, strict=False):
        for block, candidate in enumerate(space.candidates):
            lines = [line.split(",") for path in sorted(folder.glob(f"{stage.name}_{block}_*.csv"))
                     for line in path.read_text().splitlines()]
            if lines:
                latency, loss = np.array([(float(f[5]), float(f[2])) for f in lines]).T
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
