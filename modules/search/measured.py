"""The best of a search, measured: a search exploits the errors of a latency model."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")  # an individual
L = TypeVar("L")  # latency in ms: a number, or one for each device

MEASURE_BEST = ("networks to find at the end that keep the latency limit as measured, best first; 0: none is measured. "
                "onnxruntime_int8 and onnxruntime_w7a8 measure, and platforms that a profile of a device in reach "
                "made")
MOST = 20  # individuals that are measured for each one wanted


@dataclass(frozen=True)
class Measured(Generic[T, L]):
    """An individual, its score, its predicted and measured latency in ms, and whether the measured one keeps the
    limit."""

    individual: T
    score: float
    predicted: L
    measured: L
    keeps: bool


def measure_best(ranked: Iterable[tuple[T, float]], predict: Callable[[T], L], measure: Callable[[T], L],
                 keeps: Callable[[L], bool], wanted: int, patience: int = MOST) -> list[Measured[T, L]]:
    """Measure individuals, given best first with their scores, until `wanted` of them keep the limit or 20 times as
    many are measured. It ends, too, if none of `patience` times as many keeps it.

    Returns:
        Those that keep the limit, then the others. Each part is ordered best first; the faster one first if scores are
        equal.
    """
    found: list[Measured[T, L]] = []
    for individual, score in ranked:
        kept = sum(m.keeps for m in found)
        if kept == wanted or len(found) == wanted * (MOST if kept else patience):
            break
        ms = measure(individual)
        found.append(Measured(individual, score, predict(individual), ms, bool(keeps(ms))))
    return sorted(found, key=lambda m: (not m.keeps, -m.score, m.measured))
