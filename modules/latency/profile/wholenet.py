"""From the sum of a network's blocks to its latency: a correction fitted to networks measured as a whole.

A block timed alone also pays for entering and leaving the runtime. It finds its weights in a cache that is too small
for a whole network. Both effects are nearly linear in a few sums over the network's blocks.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from modules.latency.fitted.features import MILLION
from modules.latency.prediction import NORMAL_90
from modules.modeling.complexity import blocks_of, count_block
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, build_block

TERMS = ("ms", "blocks", "million_held_weights", "million_outputs")
_HELD = 0.5  # million weights; an inner cache holds these of a block timed alone, but not those of a network
_PRIOR = np.array([1.0, 0.0, 0.0, 0.0])  # the sum itself
_RIDGE = 0.005  # for each measured network, in units of the terms' mean squares
_HUBER = 2.0  # standard deviations; larger errors pull no harder


@lru_cache(maxsize=500_000)
def _block_terms(block: BlockArgs, hw: tuple[int, int]) -> tuple[float, float, float]:
    counts, out = count_block(build_block(block), hw)
    weights = sum(count.parameters[0] for count in counts if count.macs)
    return 1.0, min(weights / MILLION, _HELD), out[0] * out[1] * block.cout / MILLION


def block_terms(blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> np.ndarray:
    """(blocks, 3), such as (17, 3): 1, weights in millions up to `_HELD`, values of the output in millions."""
    return np.array([_block_terms(*key) for key in zip(blocks, hws, strict=True)], dtype=float).reshape(-1, 3)


def net_terms(specs: Sequence[NetSpec]) -> np.ndarray:
    """(len(specs), 3), such as (40, 3): the sums of `block_terms` over the blocks of each network."""
    rows = []
    for spec in specs:
        blocks, hws = zip(*blocks_of(spec), strict=True)
        rows.append(block_terms(blocks, hws).sum(0))
    return np.array(rows).reshape(-1, 3)


@dataclass(frozen=True)
class Correction:
    """Latency = sum of `coefficients` times `TERMS`, off by `deviation` (relative standard deviation; nan: unknown).

    It has no constant term: applied to each block, it gives the same sum over a network's blocks.
    """

    coefficients: tuple[float, ...] = tuple(_PRIOR)
    deviation: float = float("nan")

    def apply(self, ms: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """Latencies (n,) in ms of blocks within a network, or of networks, from latencies of blocks timed alone `ms`
        (n,) and `terms` (n, 3).

        Never below a tenth of `ms`.
        """
        return np.maximum(np.column_stack([ms, terms]) @ np.array(self.coefficients), ms / 10)


def fit_correction(sums: np.ndarray, terms: np.ndarray, ms: np.ndarray) -> Correction:
    """Fit to networks measured as a whole.

    Ridge regression of relative errors towards the plain sum, robust against single bad measurements (Huber weights).
    The deviation comes from predictions for networks left out one at a time; an interval of +-1.645 deviations covers
    90% of them.

    Args:
        sums: (networks,) ms predicted for the blocks of each.
        terms: (networks, 3) of `net_terms`.
        ms: (networks,) measured.
    """
    rows = np.column_stack([sums, terms]) / ms[:, None]
    weights = np.ones(len(ms))
    for _ in range(5):
        error = 1 - rows @ _ridge(rows, weights)
        scale = max(1.4826 * float(np.median(np.abs(error))), 1e-6)
        weights = np.minimum(1, _HUBER * scale / np.maximum(np.abs(error), 1e-12))
    left_out = np.array([np.log(rows[i] @ _ridge(np.delete(rows, i, 0), np.delete(weights, i)))
                         for i in range(len(ms))])
    rank = min(1.0, 0.9 * (1 + 1 / len(ms)))
    deviation = float(np.quantile(np.abs(left_out), rank)) / NORMAL_90
    return Correction(tuple(float(c) for c in _ridge(rows, weights)), deviation)


def _ridge(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    size = np.sqrt((rows**2).mean(0))
    x, y = rows / size, 1 - rows @ _PRIOR
    step = np.linalg.solve((x * weights[:, None]).T @ x + _RIDGE * len(rows) * np.eye(x.shape[1]),
                           (x * weights[:, None]).T @ y)
    return _PRIOR + step / size
