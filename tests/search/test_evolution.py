"""Breeding of any candidates."""
import numpy as np

from modules.search.generations import Breeder, GenerationSizes


class Integers:
    """Individuals are integers; a mutant of n is n + 1000 times anything, a crossover is 0."""

    def __init__(self):
        self.crossed, self.mutated = [], []

    def sample(self, rng):
        return int(rng.integers(10))

    def mutate(self, individual, rng):
        self.mutated.append(individual)
        return individual + 1000 * int(rng.integers(1, 100))

    def crossover(self, a, b, rng):
        self.crossed.append((a, b))
        return 0


def test_a_crossover_in_vain_becomes_a_mutant_of_the_better_parent():
    moves, sizes = Integers(), GenerationSizes(mutation_size=0, crossover_size=20, max_crossover_try=7)
    parents = list(range(1, 11))  # best first
    children = Breeder(moves, lambda n: n > 10, np.random.default_rng(0)).children(parents, sizes)
    assert len(set(children)) == 20
    assert len(moves.crossed) == 20 * 7
    pairs = moves.crossed[::7]
    assert [n % 1000 for n in children] == [min(pair) for pair in pairs]
    assert all(a < b for a, b in pairs)
    assert len(set(pairs)) > 10


def test_breeding_ends_where_nothing_is_accepted():
    moves, sizes = Integers(), GenerationSizes(mutation_size=2, crossover_size=1)
    assert Breeder(moves, lambda n: False, np.random.default_rng(0)).children([5], sizes) == []
    assert len(moves.mutated) == 3 * 1000
    assert sorted(Breeder(moves, lambda n: True, np.random.default_rng(0)).random(99, 500)) == list(range(10))
