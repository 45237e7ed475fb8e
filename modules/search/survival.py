"""Steady-state evolution: one child at a time; the fittest of all individuals so far survive."""
from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from modules.search.evolution import Entry, History

T = TypeVar("T")
R = TypeVar("R")
_TRIES = 100  # iterations for each child; then the children found count


class SurvivalEvolution(Generic[T, R]):
    """The population is the `population_size` fittest entries of the history.

    An iteration mutates a parent drawn uniformly from the population. A new and accepted child is scored. The parent is
    `seed` until `seed_size` individuals are scored; with `draw` the children are random until then.

    Args:
        history: receives the individuals; may hold entries of an earlier part of the same run.
        mutate: a changed copy of an individual.
        accept: whether an individual is within its limits.
        rng: the only source of randomness; with its state and `iteration` a run can be continued.
        draw: a random individual.
        children: number of children of one population before it is renewed.
        score_all: a function that gives the results of several individuals in order; without it `history.evaluate`
            scores each.
    """

    def __init__(self, history: History[T, R], seed: T, mutate: Callable[[T, np.random.Generator], T],
                 accept: Callable[[T], bool], population_size: int, rng: np.random.Generator, seed_size: int = 10, *,
                 draw: Callable[[np.random.Generator], T] | None = None, children: int = 1,
                 score_all: Callable[[Sequence[T]], Sequence[R]] | None = None):
        self.history, self.seed, self.mutate, self.accept, self.rng = history, seed, mutate, accept, rng
        self.population_size, self.seed_size, self.draw, self.children = population_size, seed_size, draw, children
        self.score_all = score_all or (lambda individuals: list(map(history.evaluate, individuals)))
        self.iteration = 0
        self._alive: list[tuple[float, int]] = []  # fitness and position in the history, least fit first
        self._seen = 0
        self._fits: Callable[[T], bool] = lambda individual: True

    def restrict(self, fits: Callable[[T], bool]) -> None:
        """From now on only individuals of which `fits` is true live."""
        self._fits, self._alive, self._seen = fits, [], 0

    def population(self) -> list[tuple[float, int]]:
        """(fitness, position in the history) of the living individuals, least fit first."""
        for entry in self.history.entries[self._seen:]:
            if self._fits(entry.individual):
                insort(self._alive, (entry.fitness, self._seen))
            self._seen += 1
            del self._alive[: max(len(self._alive) - self.population_size, 0)]
        return self._alive

    def run(self, iterations: int, evaluations: int | None = None) -> Iterator[None]:
        """Continue until iteration number `iterations`, or until `evaluations` individuals are scored in all.

        Yields after the children of each population; the state may be saved then.
        """
        while self.iteration < iterations and (evaluations is None or len(self.history) < evaluations):
            most = self.children if evaluations is None else min(self.children, evaluations - len(self.history))
            parents = self._breed(most, iterations)
            for (child, parent), result in zip(parents.items(), self.score_all(list(parents)), strict=True):
                self.history.restore(child, result, parent)
            yield

    def _breed(self, most: int, iterations: int) -> dict[T, Entry[T, R] | None]:
        """New accepted children with their parents: at most `most`. Fewer if 100 iterations for each, or the remaining
        iterations, give fewer."""
        population, found = self.population(), {}
        last = min(iterations, self.iteration + _TRIES * most)
        while self.iteration < last and len(found) < most:
            parent = None
            if population and len(self.history) >= self.seed_size:
                parent = self.history.entries[population[self.rng.integers(len(population))][1]]
            child = self._child(parent)
            if child not in self.history and child not in found and self.accept(child):
                found[child] = parent
            self.iteration += 1
        return found

    def _child(self, parent: Entry[T, R] | None) -> T:
        if parent is None and self.draw:
            return self.draw(self.rng)
        return self.mutate(parent.individual if parent else self.seed, self.rng)
