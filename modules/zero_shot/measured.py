"""The best structures of a search, measured: a search exploits a latency model where that is wrong."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modules.search_space.networks.structure import Structure

_MOST = 20  # structures that are measured for each one wanted


@dataclass(frozen=True)
class Measured:
    """A structure, its score, and its latency in ms as predicted and as measured."""

    structure: Structure
    score: float
    predicted: float
    measured: float


def measure_best(ranked: Iterable[tuple[Structure, float]], predict: Callable[[Structure], float],
                 measure: Callable[[Structure], float], limit: float, wanted: int) -> list[Measured]:
    """Measure structures, given best first with their scores, until `wanted` are within `limit` (ms) or 20 times as
    many are measured; those within the limit come first in the result, each part best first."""
    within, beyond = [], []
    for structure, score in ranked:
        if len(within) == wanted or len(within) + len(beyond) == _MOST * wanted:
            break
        found = Measured(structure, score, predict(structure), measure(structure))
        (within if found.measured <= limit else beyond).append(found)
    return within + beyond
