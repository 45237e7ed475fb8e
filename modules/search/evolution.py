"""Evolutionary search over individuals of any hashable type.

`History` scores every individual once and keeps it. The loop of `AgingEvolution` chooses the next ones, one at a time.
`modules.search.generations` breeds whole generations.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")  # an individual
R = TypeVar("R")  # the result of an evaluation

_fitness = attrgetter("fitness")
PATIENCE = 1000  # draws or cycles in a row without a new individual; then a search counts as exhausted


@dataclass(frozen=True)
class Entry(Generic[T, R]):
    """A scored individual: the result of its evaluation, the result as a number (higher is better), and the entry that
    it was mutated from (None for a first one)."""

    individual: T
    result: R
    fitness: float
    parent: Entry[T, R] | None = None


class History(Generic[T, R]):
    """Every individual scored so far, in order, each once.

    `evaluate` scores an individual (None: all are scored elsewhere and given to `restore`). `fitness` turns a result
    into a number; higher is better.
    """

    def __init__(self, evaluate: Callable[[T], R] | None, fitness: Callable[[R], float]):
        self.evaluate, self.fitness = evaluate, fitness
        self.entries: list[Entry[T, R]] = []
        self._known: set[T] = set()

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, individual: T) -> bool:
        return individual in self._known

    def add(self, individual: T, parent: Entry[T, R] | None = None) -> bool:
        """Score `individual` unless it is known; returns whether it was new."""
        if individual in self._known:
            return False
        self.restore(individual, self.evaluate(individual), parent)
        return True

    def restore(self, individual: T, result: R, parent: Entry[T, R] | None = None) -> None:
        """Append an individual that was scored before."""
        self._known.add(individual)
        self.entries.append(Entry(individual, result, self.fitness(result), parent))

    def restore_child(self, individual: T, result: R, parent: int | None) -> None:
        """As `restore`, for an individual whose parent is entry number `parent`; ValueError if there is no such
        entry."""
        if parent is not None and not 0 <= parent < len(self.entries):
            raise ValueError(f"entry {len(self.entries)} has the parent {parent}")
        self.restore(individual, result, None if parent is None else self.entries[parent])

    def top(self, count: int, among: Callable[[Entry[T, R]], bool] | None = None) -> list[Entry[T, R]]:
        """The `count` fittest, or fewer if there are fewer, best first; `among` selects the candidates."""
        return sorted(filter(among, self.entries), key=_fitness, reverse=True)[:count]


def draw_accepted(draw: Callable[[], T], accept: Callable[[T], bool], patience: int = PATIENCE) -> T | None:
    """The first individual from `draw` that is accepted; None after `patience` draws."""
    for _ in range(patience):
        individual = draw()
        if accept(individual):
            return individual
    return None


class AgingEvolution(Generic[T, R]):
    """Regularised evolution: the population is the last `population_size` entries of the history.

    A cycle draws `parent_size` of the population, takes the fittest as parent and adds one child per mutation; each
    child pushes the oldest individual out.

    Args:
        history: receives the individuals; may hold entries of an earlier part of the same run.
        mutations: functions of (individual, rng) that return a child, or None if nothing can change.
        population_size, parent_size: see above.
        rng: the only source of randomness; with its state and `seeded` a run can be continued.
    """

    def __init__(self, history: History[T, R], mutations: Sequence[Callable[[T, np.random.Generator], T | None]],
                 population_size: int, parent_size: int, rng: np.random.Generator):
        self.history, self.mutations, self.rng = history, mutations, rng
        self.population_size, self.parent_size = population_size, parent_size
        self.seeded = False

    @property
    def population(self) -> list[Entry[T, R]]:
        """The living individuals, oldest first."""
        return self.history.entries[-self.population_size:]

    def run(self, seeds: Iterable[T], draw: Callable[[np.random.Generator], T], budget: int) -> Iterator[None]:
        """Score `seeds`, fill the population with `draw`, then evolve until `budget` individuals are scored in all.

        Yields after each addition; the state may be saved then. Ends early if nothing new is found.
        """
        history = self.history
        if not self.seeded:
            for seed in seeds:
                if len(history) < budget and history.add(seed):
                    yield
            while len(history) < min(self.population_size, budget):
                individual = draw_accepted(lambda: draw(self.rng), lambda drawn: drawn not in history)
                if individual is None:
                    break
                history.add(individual)
                yield
            self.seeded = True
        idle = 0
        while len(history) < budget and idle < PATIENCE:
            idle = 0 if self._cycle(budget) else idle + 1
            if not idle:
                yield

    def _cycle(self, budget: int) -> bool:
        population = self.population
        picks = self.rng.choice(len(population), min(self.parent_size, len(population)), replace=False)
        parent, before = max((population[i] for i in picks), key=_fitness), len(self.history)
        for mutate in self.mutations:
            child = mutate(parent.individual, self.rng)
            if child is not None and len(self.history) < budget:
                self.history.add(child, parent)
        return len(self.history) > before
