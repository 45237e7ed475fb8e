"""The quality of a search space under a latency limit (Q-T score).

The score of 100,000 random subnets grows with the share that is within the limit. It falls with the mean loss of the
best 50 within the limit. `SampleEstimator` draws the subnets, `ExactEstimator` computes the average over draws.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modules.search_space.config import SupernetConfig

CHUNKS, CHUNK_SIZE = 200, 500  # every subnet of a chunk has the same resolution
DRAWS = CHUNKS * CHUNK_SIZE
TOP = 50
EPSILON = 1e-5
NO_SUBNET_LOSS = 1e5  # mean loss if no subnet meets the limit
COUPLINGS = ("independent", "chained")


@dataclass(frozen=True)
class Target:
    """A latency limit in ms, and the two parameters of the latency loss."""

    limit: float
    t: float = 0.1
    a: float = 0.01

    def latency_loss(self, share):
        """max(1, (t / (share + 1e-5)) ** a) of the share of subnets within the limit; number or array."""
        return np.maximum(1.0, (self.t / (share + EPSILON)) ** self.a)


@dataclass(frozen=True)
class Quality:
    """Under one limit: score (higher is better), latency loss, mean of the 50 smallest losses, share within the limit.

    `score` is 1 / (latency_loss * top_loss); the exact estimator gives the expectation of each of the three.
    """

    score: float
    latency_loss: float
    top_loss: float
    feasible: float


Estimator = Callable[[SupernetConfig], Quality]


@dataclass(frozen=True)
class SpaceScore:
    """The qualities of one space under every limit; score and losses are their sums, as published."""

    per_limit: tuple[Quality, ...]

    @property
    def score(self) -> float:
        """Sum of the scores over the limits."""
        return sum(q.score for q in self.per_limit)

    @property
    def latency_loss(self) -> float:
        """Sum of the latency losses over the limits."""
        return sum(q.latency_loss for q in self.per_limit)

    @property
    def top_loss(self) -> float:
        """Sum of the mean smallest losses over the limits."""
        return sum(q.top_loss for q in self.per_limit)


def score_space(estimators: tuple[Estimator, ...], config: SupernetConfig) -> SpaceScore:
    """Score `config` with one estimator per limit."""
    return SpaceScore(tuple(estimator(config) for estimator in estimators))


def quality_of_draws(losses: np.ndarray, draws: int, target: Target) -> Quality:
    """The published estimate (SpaceEvo, ICCV 2023), 1 / (latency_loss top_loss).

    Args:
        losses: of the subnets within the limit, such as (34000,).
        draws: number of subnets drawn, such as 100,000.
        target: gives the latency loss from the share within the limit.

    top_loss is the mean of the 50 smallest losses; 1e5 without a subnet within the limit.
    """
    count = min(TOP, len(losses))
    if not count:
        latency_loss = float(target.latency_loss(0.0))
        return Quality(1 / (latency_loss * NO_SUBNET_LOSS), latency_loss, NO_SUBNET_LOSS, 0.0)
    smallest = np.partition(losses, count - 1)[:count]
    top_loss = float(smallest.sum(dtype=float)) / (count + EPSILON)
    latency_loss = float(target.latency_loss(len(losses) / draws))
    return Quality(1 / (latency_loss * max(top_loss, EPSILON)), latency_loss, top_loss, len(losses) / draws)
