"""The figure of a subnet search: accuracy over latency."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.search.subnet_record import Evaluated, Window
from modules.utils.figures import new_figure, save_figure


def draw_search(path: Path, title: str, subnets: Sequence[Evaluated], front: Sequence[Evaluated],
                windows: Sequence[Window], baseline: Sequence[tuple[float, float]] = ()) -> None:
    """All evaluated subnets coloured by round, their Pareto front, the limits, and another search's (latency in ms,
    accuracy in percent) with its front."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8, 5)
    axes = figure.subplots()
    if baseline:
        points = np.array(sorted(baseline))
        axes.scatter(*points.T, s=10, color="#999999", marker="x", linewidths=0.8,
                     label=f"baseline, {len(points)} subnets")
        axes.step(points[:, 0], np.maximum.accumulate(points[:, 1]), where="post", color="#999999", linewidth=1.2,
                  linestyle="--", label="front of the baseline")
    rounds = [subnet.proposal.round for subnet in subnets]
    dots = axes.scatter([s.proposal.latency for s in subnets], [s.accuracy.top1 for s in subnets], c=rounds, s=14,
                        cmap="viridis", linewidths=0, label=f"evaluated, {len(subnets)} subnets")
    if max(rounds):
        figure.colorbar(dots, ax=axes, label="round (0: random start)", ticks=MaxNLocator(integer=True))
    latencies, accuracies = ([s.proposal.latency for s in front], [s.accuracy.top1 for s in front])
    low, high = zip(*(s.accuracy.interval for s in front), strict=True)
    axes.step(latencies, accuracies, where="post", color="#d55e00", linewidth=1.6, label="Pareto front")
    axes.errorbar(latencies, accuracies, np.abs(np.array([low, high]) - accuracies), fmt="o", color="#d55e00",
                  markersize=4, elinewidth=0.6, capsize=2, label="95% interval")
    for window in windows:
        axes.axvline(window.limit, color="black", linewidth=0.9, linestyle=":")
        axes.annotate(f"{window.limit:g} ms ", (window.limit, 0.01), xycoords=("data", "axes fraction"), fontsize=8,
                      ha="right")
    axes.set(xlabel="predicted int8 latency, ms", ylabel="int8 top-1, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    save_figure(figure, path)
