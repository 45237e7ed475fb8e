"""Latency distributions as a figure."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.utils.figures import new_figure, save_figure


def draw_latency_cdf(latencies: dict[str, np.ndarray], path: str | Path, platform: str) -> None:
    """Cumulative distributions of subnet latencies (milliseconds), one curve per supernet, as PNG."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name, values in latencies.items():
        axes.plot(np.sort(values), np.arange(1, len(values) + 1) / len(values), label=f"{name} ({len(values)} subnets)")
    axes.set(xlabel=f"latency on {platform}, ms", ylabel="share of subnets", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
