"""The expected Q-T score from a distribution: order statistics of the losses of many random subnets."""
from __future__ import annotations

from functools import lru_cache

import numpy as np

from modules.block_kd.score.quality import EPSILON, NO_SUBNET_LOSS, TOP, Quality, Target

_FEW = 100.0  # expected number of feasible subnets; below it the number is treated as random
_MOST = 200  # Poisson(100) exceeds this once in 1e19
_GRID = 1024


def expected_quality(cdf: np.ndarray, step: float, start: float, draws: float, target: Target) -> Quality:
    """Expected quality of a space when `draws` subnets are drawn from it.

    Args:
        cdf: shape (n,), such as (512,): entry i is the chance that a subnet is within the limit and its loss is at most
            `start + i * step`. The last entry is the share within the limit.
        step, start: the grid of losses.
        draws: number of subnets drawn.
        target: the limit and the parameters of the latency loss.

    The sum of the k smallest feasible losses is the integral over x of max(0, k - number of losses up to x). That
    number is Poisson with mean draws * cdf(x). If fewer than about 50 feasible subnets may turn up, the expectation is
    taken over their number n; given n, the number of losses up to x is binomial.
    """
    expected = draws * float(cdf[-1])
    if expected >= _FEW:
        rest = np.interp(draws * cdf, *_poisson_rest())
        top_loss = (TOP * start + step * float(rest.sum())) / (TOP + EPSILON)
        latency_loss = float(target.latency_loss(cdf[-1]))
        return Quality(float(1 / (latency_loss * top_loss)), latency_loss, float(top_loss), float(cdf[-1]))

    counts = np.arange(_MOST + 1)
    chance = _poisson(expected)
    top_loss = np.full(_MOST + 1, NO_SUBNET_LOSS)
    if expected > 0:
        sums = np.minimum(counts, TOP) * start + step * _binomial_rest(cdf / cdf[-1])
        top_loss[1:] = sums[1:] / (np.minimum(counts, TOP)[1:] + EPSILON)
    latency_loss = target.latency_loss(counts / max(draws, 1.0))  # no draw: nothing is feasible
    return Quality(float(chance @ (1 / (latency_loss * top_loss))), float(chance @ latency_loss),
                   float(chance @ top_loss), float(cdf[-1]))


def _poisson(mean: float) -> np.ndarray:
    """Chances of 0 to 200 events."""
    counts = np.arange(_MOST + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    return np.exp(counts * np.log(max(mean, 1e-300)) - mean - log_factorial)


@lru_cache(maxsize=1)
def _poisson_rest() -> tuple[np.ndarray, np.ndarray]:
    """A grid of means, and E[max(0, 50 - Poisson(mean))] on it."""
    means = np.linspace(0, _MOST, 20 * _MOST + 1)
    return means, np.array([np.maximum(TOP - np.arange(_MOST + 1), 0) @ _poisson(m) for m in means])


@lru_cache(maxsize=1)
def _binomial_table() -> np.ndarray:
    """E[max(0, min(n, 50) - Binomial(n, g))], shape (201, 1025), for g = 0, 1/1024 ... 1."""
    g = np.linspace(0, 1, _GRID + 1)
    below = np.zeros((TOP, _GRID + 1))  # chance of j successes in n trials, j < 50; more are dropped
    below[0] = 1.0
    table = np.zeros((_MOST + 1, _GRID + 1))
    for n in range(1, _MOST + 1):
        below[1:] = below[1:] * (1 - g) + below[:-1] * g
        below[0] *= 1 - g
        table[n] = n * (1 - g) if n <= TOP else (TOP - np.arange(TOP)) @ below
    return table


def _binomial_rest(g: np.ndarray) -> np.ndarray:
    """The table above, interpolated at the shares `g` and summed over them, shape (201,)."""
    position = np.clip(g, 0, 1) * _GRID
    left = np.minimum(position.astype(int), _GRID - 1)
    weights = np.bincount(left, 1 - (position - left), _GRID + 1) + np.bincount(left + 1, position - left, _GRID + 1)
    return _binomial_table() @ weights
