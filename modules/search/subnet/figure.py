"""The figure of a subnet search: accuracy over latency."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.search.subnet.record import Evaluated, pareto_front
from modules.search.subnet.window import Window
from modules.utils.figures import interval_errors, new_figure, save_figure


def draw_search(path: Path, title: str, subnets: Sequence[Evaluated], windows: Sequence[Window],
                devices: Sequence[str], label: str, baseline: Sequence[tuple[float, float]] = ()) -> None:
    """All evaluated subnets coloured by round, their Pareto front and the limits, with one panel for each device. The
    first panel also shows another search's subnets (latency in ms, fitness) with their front. `label` is of the
    fitness."""
    figure = new_figure(1 + 7 * len(devices), 5)
    panels = figure.subplots(1, len(devices), squeeze=False)[0]
    for number, (axes, device) in enumerate(zip(panels, devices, strict=True)):
        if baseline and number == 0:
            _draw_baseline(axes, baseline)
        dots = _draw_subnets(axes, subnets, number)
        for window in filter(lambda window: window.limits, windows):
            limit = window.limits[number]
            axes.axvline(limit, color="black", linewidth=0.9, linestyle=":")
            axes.annotate(f"{limit:g} ms ", (limit, 0.01), xycoords=("data", "axes fraction"), fontsize=8, ha="right")
        axes.set(xlabel=f"predicted int8 latency on {device}, ms", ylabel=label, title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="best")
    if max(subnet.proposal.round for subnet in subnets):
        from matplotlib.ticker import MaxNLocator

        figure.colorbar(dots, ax=panels[-1], label="round (0: random start)", ticks=MaxNLocator(integer=True))
    save_figure(figure, path)


def _draw_baseline(axes, baseline: Sequence[tuple[float, float]]) -> None:
    points = np.array(sorted(baseline))
    axes.scatter(*points.T, s=10, color="#999999", marker="x", linewidths=0.8,
                 label=f"baseline, {len(points)} subnets")
    axes.step(points[:, 0], np.maximum.accumulate(points[:, 1]), where="post", color="#999999", linewidth=1.2,
              linestyle="--", label="front of the baseline")


def _draw_subnets(axes, subnets: Sequence[Evaluated], device: int):
    dots = axes.scatter([s.proposal.latency.ms[device] for s in subnets], [s.accuracy.top1 for s in subnets],
                        c=[s.proposal.round for s in subnets], s=14, cmap="viridis", linewidths=0,
                        label=f"evaluated, {len(subnets)} subnets")
    front = pareto_front(subnets, device)
    latencies, accuracies = ([s.proposal.latency.ms[device] for s in front], [s.accuracy.top1 for s in front])
    low, high = zip(*(s.accuracy.interval for s in front), strict=True)
    axes.step(latencies, accuracies, where="post", color="#d55e00", linewidth=1.6, label="Pareto front")
    axes.errorbar(latencies, accuracies, interval_errors(accuracies, low, high), fmt="o", color="#d55e00",
                  markersize=4, elinewidth=0.6, capsize=2, label="95% interval")
    return dots
