"""The individuals of the space search: its first spaces, and the moves from one space to another."""
from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import get_superspace


def seed_spaces(superspace: str) -> Iterator[SupernetConfig]:
    """Every block type in all stages at once, with every window index; a stage with fewer windows takes its last
    one."""
    space = get_superspace(superspace)
    counts = [stage.num_windows for stage in space.searched]
    for block in range(len(space.candidates)):
        for window in range(max(counts)):
            yield SupernetConfig(superspace, (block,) * len(counts), tuple(min(window, n - 1) for n in counts))


def number_of_spaces(superspace: str) -> int:
    """Number of different spaces of the superspace."""
    space = get_superspace(superspace)
    return prod(len(space.candidates) * stage.num_windows for stage in space.searched)


def random_space(superspace: str, rng: np.random.Generator) -> SupernetConfig:
    """Block type and window of every stage drawn uniformly."""
    space = get_superspace(superspace)
    blocks = rng.integers(len(space.candidates), size=len(space.searched))
    windows = [rng.integers(stage.num_windows) for stage in space.searched]
    return SupernetConfig(superspace, tuple(map(int, blocks)), tuple(map(int, windows)))


def mutate_block(config: SupernetConfig, rng: np.random.Generator) -> SupernetConfig | None:
    """Give one stage another block type; None if there is only one type."""
    options = [len(config.space.candidates)] * len(config.blocks)
    blocks = _change_one(config.blocks, options, rng)
    return blocks and SupernetConfig(config.superspace, blocks, config.windows)


def mutate_window(config: SupernetConfig, rng: np.random.Generator) -> SupernetConfig | None:
    """Give one stage another window; None if no stage has several."""
    windows = _change_one(config.windows, [stage.num_windows for stage in config.space.searched], rng)
    return windows and SupernetConfig(config.superspace, config.blocks, windows)


def _change_one(values: tuple[int, ...], options: list[int], rng: np.random.Generator) -> tuple[int, ...] | None:
    free = [i for i, n in enumerate(options) if n > 1]
    if not free:
        return None
    stage = free[rng.integers(len(free))]
    other = int(rng.integers(options[stage] - 1))
    other += other >= values[stage]
    return (*values[:stage], other, *values[stage + 1:])
