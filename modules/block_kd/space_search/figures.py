"""Figure of a space: losses and latencies of its subnets, and the limits."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from modules.block_kd.score.quality import TOP, SpaceScore
from modules.utils.figures import COLOURS, new_figure, save_figure


def draw_distribution(path: Path, title: str, draws: tuple[np.ndarray, np.ndarray, np.ndarray],
                      limits: Sequence[float], score: SpaceScore, unit: str = "NSR") -> None:
    """Loss over latency of drawn subnets, and the share of subnets within any latency. None drawn: no figure.

    Args:
        path: the png to write.
        title: the name of the space.
        draws: loss, latency (ms) and resolution (pixels) of each drawn subnet.
        limits: latency limits in ms.
        score: the score of the space under these limits.
        unit: of the loss.
    """
    loss, latency, resolution = draws
    if not len(loss):
        return
    figure = new_figure(11, 4.6)
    figure.suptitle(f"{title}   score {score.score:.4f}")
    left, right = figure.subplots(1, 2)
    end = max(np.quantile(latency, 0.98), 1.15 * max(limits, default=0))
    shown = latency <= end

    cells = left.hexbin(latency[shown], loss[shown], gridsize=60, bins="log", mincnt=1, cmap="Greys", linewidths=0.1)
    figure.colorbar(cells, ax=left, label=f"subnets per cell, of {len(loss):,} drawn")
    for limit, colour in zip(limits, COLOURS, strict=False):
        feasible = np.flatnonzero(latency <= limit)
        best = feasible[np.argsort(loss[feasible])[:TOP]]
        left.axvline(limit, color=colour, linewidth=1)
        left.scatter(latency[best], loss[best], s=9, color=colour, zorder=3,
                     label=f"{len(best)} smallest losses within {limit:g} ms")
    left.set(xlabel="latency (ms)", ylabel=f"summed block loss ({unit})", xlim=(0, end), title="drawn subnets")
    if limits:
        left.legend(loc="upper right", fontsize=8)

    for value, style in zip(np.unique(resolution), cycle((":", "--", "-.", "-")), strict=False):
        _cumulated(right, latency[resolution == value], end, color="#777777", linewidth=1.2, linestyle=style,
                   label=f"resolution {value}")
    _cumulated(right, latency, end, color="black", linewidth=2, label="all")
    for limit, quality, colour in zip(limits, score.per_limit, COLOURS, strict=False):
        right.axvline(limit, color=colour, linewidth=1, label=f"{limit:g} ms: {quality.feasible:.3%} within")
    right.set(xlabel="latency (ms)", ylabel="share of subnets within", xlim=(0, end), ylim=(0, 1),
              title="latency distribution")
    right.grid(alpha=0.3)
    right.legend(loc="lower right", fontsize=8)
    save_figure(figure, path)


def _cumulated(axes, latency: np.ndarray, end: float, **style) -> None:
    grid = np.linspace(0, end, 500)
    axes.plot(grid, np.searchsorted(np.sort(latency), grid, "right") / len(latency), **style)
