"""Errors of predictions on measurements that were not fitted, as figures and as a picture."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.latency.prediction import NORMAL_90, Prediction
from modules.utils.figures import new_figure, save_figure


def block_figures(ms: np.ndarray, predicted: np.ndarray, deviation: np.ndarray) -> dict:
    """Errors on blocks that were not fitted, from latencies and predictions in ms and relative standard deviations,
    (n,) each, such as (60,)."""
    error = np.abs(predicted / ms - 1)
    return {"number": len(ms), "mean_abs_error": _share(error.mean()), "median_abs_error": _share(np.median(error)),
            "coverage_90": _share(covered(ms, predicted, deviation))}


def covered(ms: np.ndarray, predicted: np.ndarray, deviation: np.ndarray) -> float:
    """Share, 0 to 1, of latencies within the 90% interval predicted * exp(+-1.645 deviation): ms, and relative standard
    deviations, (n,) each, such as (60,)."""
    return float(np.mean(np.abs(np.log(ms / predicted)) <= NORMAL_90 * deviation))


def net_figures(first: np.ndarray, second: np.ndarray, predicted: Prediction, sums: np.ndarray) -> dict:
    """Errors on whole networks, beside those of a second measurement.

    Args:
        first, second: (n,) ms of two measurements, one after the other.
        predicted: of the same networks.
        sums: (n,) ms of their blocks before the correction.

    Returns:
        Mean absolute errors relative to the mean of both measurements, and Kendall's tau to a single one.
    """
    measured = (first + second) / 2
    error = np.abs(predicted.ms / measured - 1)
    return {
        "number": len(first), "smallest_ms": round(float(measured.min()), 3),
        "largest_ms": round(float(measured.max()), 3), "mean_abs_error": _share(error.mean()),
        "largest_abs_error": _share(error.max()), "within_10_percent": _share((error <= 0.1).mean()),
        "mean_abs_error_of_block_sums": _share(np.abs(sums / measured - 1).mean()),
        "kendall_tau": _share((kendall_tau(predicted.ms, first) + kendall_tau(predicted.ms, second)) / 2),
        "kendall_tau_of_repeating": _share(kendall_tau(first, second)),
        "difference_of_repeating": _share(np.abs(second / first - 1).mean()),
        "coverage_90": _share(covered(measured, predicted.ms, predicted.std / predicted.ms)),
    }


def kendall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's rank correlation (tau-b; 1945) of two (n,) arrays, such as (30,); nan if one of them is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def _share(value: float) -> float:
    return round(float(value), 4)


def draw_report(path: str | Path, title: str, blocks: tuple[np.ndarray, np.ndarray],
                nets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """PNG of predicted over measured latency.

    Args:
        blocks: measured and predicted ms of blocks that were not fitted.
        nets: measured and predicted ms of networks, and half of the predicted 90% interval in ms.
    """
    figure = new_figure(10, 4.6)
    left, right = figure.subplots(1, 2)
    left.plot(*blocks, ".", color="tab:blue", markersize=4)
    right.errorbar(nets[0], nets[1], nets[2], fmt=".", color="tab:red", elinewidth=0.8)
    for axes, (x, y), name in ((left, blocks, "held-out blocks"), (right, nets[:2], "networks")):
        ends = np.array([min(x.min(), y.min()) * 0.9, max(x.max(), y.max()) * 1.1])
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.fill_between(ends, ends * 0.9, ends * 1.1, color="black", alpha=0.08, label="within 10%")
        error = np.abs(y / x - 1).mean()
        axes.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms",
                 title=f"{len(x)} {name}: {error:.1%} mean error")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)
