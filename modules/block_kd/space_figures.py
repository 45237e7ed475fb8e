"""Figures of the space search, for people: what a space offers under the limits, and how the search went."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from modules.block_kd.quality import TOP, SpaceScore
from modules.utils.figures import new_figure, save_figure

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # told apart by colour-blind readers


def draw_distribution(path: Path, title: str, draws: tuple[np.ndarray, np.ndarray, np.ndarray],
                      limits: Sequence[float], score: SpaceScore) -> None:
    """Loss over latency of drawn subnets, and the share of subnets within any latency.

    Args:
        path: the png to write.
        title: the name of the space.
        draws: loss, latency (ms) and resolution (pixels) of each drawn subnet.
        limits: latency limits in ms.
        score: the score of the space under these limits.
    """
    loss, latency, resolution = draws
    figure = new_figure(11, 4.6)
    figure.suptitle(f"{title}   score {score.score:.4f}")
    left, right = figure.subplots(1, 2)
    end = max(np.quantile(latency, 0.98), 1.15 * max(limits))
    shown = latency <= end

    cells = left.hexbin(latency[shown], loss[shown], gridsize=60, bins="log", mincnt=1, cmap="Greys", linewidths=0.1)
    figure.colorbar(cells, ax=left, label=f"subnets per cell, of {len(loss):,} drawn")
    for limit, colour in zip(limits, _COLOURS, strict=False):
        feasible = np.flatnonzero(latency <= limit)
        best = feasible[np.argsort(loss[feasible])[:TOP]]
        left.axvline(limit, color=colour, linewidth=1)
        left.scatter(latency[best], loss[best], s=9, color=colour, zorder=3,
                     label=f"{len(best)} smallest losses within {limit:g} ms")
    left.set(xlabel="latency (ms)", ylabel="summed block loss (NSR)", xlim=(0, end), title="drawn subnets")
    left.legend(loc="upper right", fontsize=8)

    for value, style in zip(np.unique(resolution), cycle((":", "--", "-.", "-")), strict=False):
        _cumulated(right, latency[resolution == value], end, color="#777777", linewidth=1.2, linestyle=style,
                   label=f"resolution {value}")
    _cumulated(right, latency, end, color="black", linewidth=2, label="all")
    for limit, quality, colour in zip(limits, score.per_limit, _COLOURS, strict=False):
        right.axvline(limit, color=colour, linewidth=1, label=f"{limit:g} ms: {quality.feasible:.3%} within")
    right.set(xlabel="latency (ms)", ylabel="share of subnets within", xlim=(0, end), ylim=(0, 1),
              title="latency distribution")
    right.grid(alpha=0.3)
    right.legend(loc="lower right", fontsize=8)
    save_figure(figure, path)


def _cumulated(axes, latency: np.ndarray, end: float, **style) -> None:
    grid = np.linspace(0, end, 500)
    axes.plot(grid, np.searchsorted(np.sort(latency), grid, "right") / len(latency), **style)


def draw_progress(path: Path, title: str, scores: np.ndarray, start_size: int, population_size: int) -> None:
    """Score of every space in the order of scoring, with the best so far and the median of the population.

    Args:
        path: the png to write.
        title: the search's name.
        scores: shape (n,).
        start_size: how many of them belong to the start population.
        population_size: number of individuals alive at a time.
    """
    figure = new_figure(9, 4.6)
    axes = figure.subplots()
    index = np.arange(1, len(scores) + 1)
    axes.scatter(index, scores, s=4, color="#bbbbbb", linewidths=0, label="scored space")
    ends = np.unique(np.linspace(1, len(scores), min(len(scores), 400)).astype(int))
    medians = [np.median(scores[max(0, end - population_size):end]) for end in ends]
    axes.plot(ends, medians, color=_COLOURS[1], linewidth=1.8, label="median of the population")
    axes.plot(index, np.maximum.accumulate(scores), color=_COLOURS[0], linewidth=1.8, label="best so far")
    if start_size < len(scores):
        axes.axvline(start_size + 0.5, color="black", linewidth=0.8, linestyle=":", label="evolution starts")
    low, high = np.quantile(scores, 0.05), scores.max()  # the few bad spaces would squeeze the rest
    axes.set(xlabel="spaces scored", ylabel="score", title=title, xlim=(0, len(scores) + 1),
             ylim=(low - 0.05 * (high - low), high + 0.05 * (high - low)))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    save_figure(figure, path)
