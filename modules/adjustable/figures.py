"""Figures of a run: bits per layer, score over steps, accuracy over score."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modules.adjustable.network import AdjustableNetwork
from modules.adjustable.placement import layer_places
from modules.adjustable.points import Point, front
from modules.utils.figures import COLOURS, new_figure, save_figure


@torch.no_grad()
def draw_bits(network: AdjustableNetwork, path: str | Path) -> None:
    """Mean bits of every layer's weights and input in order of execution; a bar reaches from the fewest to the most."""
    layers, places = network.costs()[0], layer_places(network.nodes)
    figure = new_figure(max(8, 0.22 * len(layers)), 5)
    axes = figure.subplots(2, 1, sharex=True)
    for ax, colour, label, bits in ((axes[0], COLOURS[0], "bits of the weights", [c.weight_bits for c in layers]),
                                    (axes[1], COLOURS[1], "bits of the input", [c.input_bits for c in layers])):
        for x, channels in enumerate(bits):
            if channels is None:
                ax.text(x, 5, "image, 8 bits", rotation=90, ha="center", va="center", fontsize=7)
            else:
                low, mean, high = (float(v) for v in (channels.min(), channels.mean(), channels.max()))
                ax.vlines(x, low, high, color=colour, alpha=0.4, linewidth=5)
                ax.plot(x, mean, marker="o", markersize=4, color=colour)
        ax.plot([], [], marker="o", markersize=4, linestyle="", color=colour, label="mean of the channels")
        ax.plot([], [], color=colour, alpha=0.4, linewidth=5, label="from the fewest to the most")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
        ax.set(ylabel=label, ylim=(1.5, 8.5))
        ax.grid(axis="y", alpha=0.3)
    axes[1].set_xticks(range(len(layers)), [places[c.name].scope for c in layers], rotation=90, fontsize=7)
    save_figure(figure, path)


def draw_curves(points: Sequence[Point], trace: Sequence[tuple[int, float]], target: float, dead_band: float,
                path: str | Path) -> None:
    """Accuracy over mini-epochs, and score over steps with its target."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    passed, averages = ([p for p in points if p.average == average] for average in (False, True))
    left.plot([p.mini_epoch for p in passed], [p.top1 for p in passed], marker="o", color=COLOURS[0])
    left.plot([p.mini_epoch for p in averages], [p.top1 for p in averages], marker="*", markersize=12, linestyle="",
              color=COLOURS[1], label="average of the weights")
    left.set(xlabel="mini-epoch", ylabel="validation top-1, %")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.plot([step for step, _ in trace], [score for _, score in trace], color=COLOURS[0])
    right.axhline(target, color="black", linestyle=":", linewidth=1, label="target")
    right.axhspan(target * (1 - dead_band), target, color="black", alpha=0.1, label="dead band")
    right.set(xlabel="step", ylabel="MicroNet score")
    right.set_ylim(bottom=0)
    if averages:
        left.legend()
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_front(points: Sequence[Point], target: float, path: str | Path) -> None:
    """Accuracy over score of every point, and the front of those that no other one beats."""
    figure, kept = new_figure(6, 4.5), front(points)
    axes = figure.subplots()
    axes.plot([p.score for p in points], [p.top1 for p in points], marker=".", linestyle="", color=COLOURS[4],
              label="mini-epochs")
    axes.step([p.score for p in kept], [p.top1 for p in kept], where="post", marker="o", color=COLOURS[0],
              label="front, which is kept")
    axes.axvline(target, color="black", linestyle=":", linewidth=1, label="target")
    axes.set(xlabel="MicroNet score", ylabel="validation top-1, %")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
