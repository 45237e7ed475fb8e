"""Calibration: the range that the 256 codes of a tensor without a trained quantiser span."""
from __future__ import annotations

import numpy as np

from modules.deploy.graph.activations import ACTIVATIONS
from modules.deploy.graph.graph import Graph
from modules.deploy.graph.observe import observe
from modules.deploy.graph.plan import before_activation
from modules.modeling.network import QNetwork

_BINS = 1024
_SHARES = np.linspace(1, 0.2, 17)  # shares of an end of the observed range that are tried
_SWEEPS = (1, 0, 1, 0)


def observe_ranges(net: QNetwork, batches, observe=observe) -> dict[str, tuple[float, float]]:
    """Minimum and maximum of every tensor of `net` over `batches` of images."""
    ranges: dict[str, tuple[float, float]] = {}

    def widen(name, tensor):
        low, high = tensor.min().item(), tensor.max().item()
        known = ranges.get(name, (low, high))
        ranges[name] = (min(low, known[0]), max(high, known[1]))

    for images in batches:
        observe(net, images, widen)
    return ranges


def best_ranges(net: QNetwork, graph: Graph, batches: list, observe=observe) -> dict[str, tuple[float, float]]:
    """For every tensor of `net`, the range whose codes have the least mean squared error over `batches`.

    For an activation's input, the error of its output counts. `observe` runs another kind of network as `observe` does
    a `QNetwork`.
    """
    ranges = observe_ranges(net, batches, observe)
    counts = _histograms(net, batches, ranges, observe)
    kinds = {node.inputs[0]: node.kind for node in graph.nodes if node.op == "act"}
    return {name: _best_range(counts[name], ends, kinds.get(name, "")) for name, ends in ranges.items()}


def _histograms(net: QNetwork, batches, ranges, observe) -> dict[str, np.ndarray]:
    counts = {name: np.zeros(_BINS) for name in ranges}

    def count(name, tensor):
        counts[name] += np.histogram(tensor.numpy(), _BINS, ranges[name])[0]

    for images in batches:
        observe(net, images, count)
    return counts


def _best_range(counts: np.ndarray, ends: tuple[float, float], kind: str) -> tuple[float, float]:
    edges = np.linspace(*ends, _BINS + 1, dtype=np.float32)
    centres = (edges[1:] + edges[:-1]) / 2
    act = ACTIVATIONS.get(kind, lambda x: x)
    wanted, best = act(centres), [min(ends[0], 0.0), max(ends[1], 0.0)]

    def error(low, high):
        quantizer = before_activation(kind, low, high)
        return (counts * (act(quantizer.values(quantizer.codes(centres))) - wanted) ** 2).sum()

    for side in _SWEEPS:  # one end after the other
        tried = [[*best[:side], float(share * best[side]), *best[side + 1:]] for share in _SHARES]
        best = min(tried, key=lambda ends: error(*ends)) if best[side] else best
    return best[0], best[1]
