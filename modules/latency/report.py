"""Latency distributions as a figure."""
from __future__ import annotations

from pathlib import Path

import numpy as np


def draw_latency_cdf(latencies: dict[str, np.ndarray], path: str | Path, platform: str) -> None:
    """Cumulative distributions of subnet latencies (milliseconds), one curve per supernet, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name, values in latencies.items():
        axes.plot(np.sort(values), np.arange(1, len(values) + 1) / len(values), label=f"{name} ({len(values)} subnets)")
    axes.set(xlabel=f"latency on {platform}, ms", ylabel="share of subnets", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
