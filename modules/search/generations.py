"""Generational evolution: the fittest become parents; their mutants and crossovers are the next generation."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from modules.search.evolution import draw_accepted
from modules.utils.settings import check_settings, setting

T = TypeVar("T")


@dataclass(frozen=True)
class GenerationSizes:
    """Sizes of the generations; the defaults are the published ones.

    The first generation has `population_size` random individuals. Each later one has `mutation_size` mutants and
    `crossover_size` crossovers. Parents are the fittest `parent_ratio` * `population_size` individuals so far, at least
    two. A mutant replaces a crossover after `max_crossover_try` tries that were not accepted.
    """

    population_size: int = setting(512, "random individuals at the start, per limit", low=1)
    parent_ratio: float = setting(0.5, "share of the population that may be parents", above=0, high=1)
    mutation_size: int = setting(128, "mutants per round and limit", low=0)
    crossover_size: int = setting(128, "crossovers per round and limit", low=0)
    max_crossover_try: int = setting(50, "tries of a crossover; a mutant follows then", low=1)

    def __post_init__(self):
        check_settings(self)

    @property
    def parents(self) -> int:
        """Number of individuals that may be parents."""
        return max(2, round(self.parent_ratio * self.population_size))

    @property
    def children(self) -> int:
        """Number of individuals of a later generation."""
        return self.mutation_size + self.crossover_size


class Moves(Protocol[T]):
    """The moves that make individuals; every function draws from its generator argument."""

    def sample(self, rng: np.random.Generator) -> T:
        """A uniform draw."""

    def mutate(self, individual: T, rng: np.random.Generator) -> T:
        """A changed copy; it may be equal."""

    def crossover(self, a: T, b: T, rng: np.random.Generator) -> T:
        """A mixture of two."""


class Breeder(Generic[T]):
    """Draws the individuals of one generation: all different, and all accepted by `accept`.

    Args:
        moves: functions that make individuals.
        accept: whether an individual may be part of the generation (new, and within its limit).
        rng: the only source of randomness.
    """

    def __init__(self, moves: Moves[T], accept: Callable[[T], bool], rng: np.random.Generator):
        self.moves, self.rng = moves, rng
        self.bred: list[T] = []
        self._known: set[T] = set()
        self._accept = lambda individual: individual not in self._known and accept(individual)

    def given(self, individuals: Sequence[T]) -> list[T]:
        """The accepted ones of `individuals`."""
        for individual in individuals:
            if self._accept(individual):
                self._keep(individual)
        return self.bred

    def random(self, count: int, patience: int) -> list[T]:
        """`count` uniform draws; fewer if `patience` draws in a row give none."""
        while len(self.bred) < count and self._keep(
                draw_accepted(lambda: self.moves.sample(self.rng), self._accept, patience)):
            pass
        return self.bred

    def children(self, parents: Sequence[T], sizes: GenerationSizes) -> list[T]:
        """Mutants, then crossovers, of `parents` (best first). Fewer if 1,000 mutants of a parent give none."""
        for _ in range(sizes.mutation_size):
            self._mutant(parents[self.rng.integers(len(parents))])
        for _ in range(sizes.crossover_size):
            # Of two positions the smaller is the better parent's.
            first, second = sorted(self.rng.choice(len(parents), 2, replace=False)) if len(parents) > 1 else (0, 0)
            a, b = parents[first], parents[second]
            if not self._keep(draw_accepted(lambda a=a, b=b: self.moves.crossover(a, b, self.rng), self._accept,
                                            sizes.max_crossover_try)):
                self._mutant(a)
        return self.bred

    def _mutant(self, parent: T) -> None:
        self._keep(draw_accepted(lambda: self.moves.mutate(parent, self.rng), self._accept))

    def _keep(self, individual: T | None) -> bool:
        if individual is not None:
            self.bred.append(individual)
            self._known.add(individual)
        return individual is not None
