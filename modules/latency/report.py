"""Predicted latencies of subnets as table, text and figure."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.latency.platform import Platform, predict_subnets
from modules.latency.prediction import NORMAL_90, Prediction, join_predictions
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.utils.figures import new_figure, save_figure

_STYLES = ("-", "--", ":", "-.")
_AT_ONCE = 100  # subnets between two steps of the progress bar


def predict_latencies(name: str, platform: Platform, space: SupernetConfig,
                      choices: Sequence[SubnetChoiceConfig], num_classes: int = 1000) -> tuple[Prediction, list[dict]]:
    """Latencies of subnets `choices` of `space` on the platform called `name`, and the same as rows of a table."""
    from tqdm import tqdm

    parts = []
    for start in tqdm(range(0, len(choices), _AT_ONCE), desc=f"{space} on {name}", disable=None):
        parts.append(predict_subnets(platform, [resolve(space, choice, num_classes)
                                                for choice in choices[start:start + _AT_ONCE]]))
    prediction = join_predictions(parts)
    rows = [{"enc": choice, "latency_ms": f"{ms:.4f}", "std_ms": "" if np.isnan(std) else f"{std:.4f}",
             "extrapolated": int(extrapolated), "platform": name, "supernet": space}
            for choice, ms, std, extrapolated in zip(choices, prediction.ms, prediction.std, prediction.extrapolated,
                                                     strict=True)]
    return prediction, rows


def latency_summary(prediction: Prediction) -> str:
    """Extremes and median of several latencies in a few words."""
    low, middle, high = np.percentile(prediction.ms, (0, 50, 100))
    text = f"min {low:.2f}ms, median {middle:.2f}ms, max {high:.2f}ms of {len(prediction.ms)} subnets"
    count = int(prediction.extrapolated.sum())
    return f"{text}, {count} of them extrapolated (~)" if count else text


def draw_latency_cdf(curves: dict[tuple[str, str], Prediction], path: str | Path) -> None:
    """Cumulative distributions of subnet latencies as PNG: one curve per (supernet, platform).

    Supernets differ in colour, platforms in line style. A band holds the 90% interval of each latency, if the platform
    knows its uncertainty.
    """
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    supernets, platforms = (list(dict.fromkeys(names)) for names in zip(*curves, strict=True))
    for (supernet, platform), prediction in curves.items():
        order = np.argsort(prediction.ms)
        ms, half = prediction.ms[order], NORMAL_90 * prediction.std[order]
        share = np.arange(1, len(ms) + 1) / len(ms)
        color = f"C{supernets.index(supernet)}"
        mark = "~" if prediction.extrapolated.any() else ""
        axes.plot(ms, share, color=color, linestyle=_STYLES[platforms.index(platform) % len(_STYLES)],
                  label=f"{mark}{supernet} on {platform} ({len(ms)} subnets)")
        axes.fill_betweenx(share, ms - half, ms + half, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="predicted latency, ms", ylabel="share of subnets", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save_figure(figure, path)
