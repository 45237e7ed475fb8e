"""Steady-state evolution: one child at a time; the fittest of all individuals so far survive."""
from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from modules.search.evolution import History

T = TypeVar("T")
R = TypeVar("R")


class SurvivalEvolution(Generic[T, R]):
    """The population is the `population_size` fittest entries of the history.

    An iteration mutates a parent drawn uniformly from the population. A new and accepted child is scored. The parent is
    `seed` until `seed_size` individuals are scored.

    Args:
        history: receives the individuals; may hold entries of an earlier part of the same run.
        mutate: a changed copy of an individual.
        accept: whether an individual is within its limits.
        rng: the only source of randomness; with its state and `iteration` a run can be continued.
    """

    def __init__(self, history: History[T, R], seed: T, mutate: Callable[[T, np.random.Generator], T],
                 accept: Callable[[T], bool], population_size: int, rng: np.random.Generator, seed_size: int = 10):
        self.history, self.seed, self.mutate, self.accept, self.rng = history, seed, mutate, accept, rng
        self.population_size, self.seed_size = population_size, seed_size
        self.iteration = 0
        self._alive: list[tuple[float, int]] = []  # fitness and position in the history, least fit first
        self._seen = 0

    def population(self) -> list[tuple[float, int]]:
        """(fitness, position in the history) of the living individuals, least fit first."""
        for entry in self.history.entries[self._seen:]:
            insort(self._alive, (entry.fitness, self._seen))
            self._seen += 1
            del self._alive[: max(len(self._alive) - self.population_size, 0)]
        return self._alive

    def run(self, iterations: int, evaluations: int | None = None) -> Iterator[None]:
        """Continue until iteration number `iterations`, or until `evaluations` individuals are scored in all.

        Yields after each iteration; the state may be saved then.
        """
        while self.iteration < iterations and (evaluations is None or len(self.history) < evaluations):
            population, parent = self.population(), None
            if len(self.history) >= self.seed_size:
                parent = self.history.entries[population[self.rng.integers(len(population))][1]]
            child = self.mutate(parent.individual if parent else self.seed, self.rng)
            if child not in self.history and self.accept(child):
                self.history.add(child, parent)
            self.iteration += 1
            yield
