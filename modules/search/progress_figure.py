"""The figure of a search's progress: scores in the order of scoring."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.utils.figures import COLOURS, new_figure, save_figure


def draw_progress(path: Path, title: str, scores: np.ndarray, start_size: int, population_size: int, *,
                  noun: str = "space", survival: bool = False) -> None:
    """Score of every individual in the order of scoring, with the best so far and the median of the population.

    Args:
        path: the png to write.
        title: the search's name.
        scores: shape (n,).
        start_size: number of them in the start population.
        population_size: number of individuals alive at a time.
        noun: the word for an individual.
        survival: the fittest are alive; otherwise the last ones.
    """
    figure = new_figure(9, 4.6)
    axes = figure.subplots()
    index = np.arange(1, len(scores) + 1)
    axes.scatter(index, scores, s=4, color="#bbbbbb", linewidths=0, label=f"scored {noun}")
    ends = np.unique(np.linspace(1, len(scores), min(len(scores), 400)).astype(int))
    medians = [np.median(np.sort(scores[:end])[-population_size:] if survival else scores[:end][-population_size:])
               for end in ends]
    axes.plot(ends, medians, color=COLOURS[1], linewidth=1.8, label="median of the population")
    axes.plot(index, np.maximum.accumulate(scores), color=COLOURS[0], linewidth=1.8, label="best so far")
    if start_size < len(scores):
        axes.axvline(start_size + 0.5, color="black", linewidth=0.8, linestyle=":", label="evolution starts")
    low, high = np.quantile(scores, 0.05), scores.max()  # the few bad ones would squeeze the rest
    margin = 0.05 * (high - low) or 0.5  # all scores may be equal
    axes.set(xlabel=f"{noun}s scored", ylabel="score", title=title, xlim=(0, len(scores) + 1),
             ylim=(low - margin, high + margin))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    save_figure(figure, path)
