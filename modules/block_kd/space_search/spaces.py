"""The individuals of the space search: spaces of a superspace, and the moves from one to another."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from modules.modeling.net_spec import NetSpec, resolve
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import Superspace, get_searched_superspace


@dataclass(frozen=True)
class Spaces:
    """The spaces of a superspace with the block types `block_types`, such as ResNetBasic; none: all types."""

    superspace: str
    block_types: tuple[str, ...] = ()

    @property
    def space(self) -> Superspace:
        """The superspace."""
        return get_searched_superspace(self.superspace)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The block choices; UserError for a name that is no block type of the superspace."""
        return self.space.block_choices(self.block_types)

    def seeds(self) -> Iterator[SupernetConfig]:
        """Every block type in all stages at once, with every window index; a stage with fewer windows takes its last
        one."""
        counts = [stage.num_windows for stage in self.space.searched]
        for block in self.blocks:
            for window in range(max(counts)):
                yield SupernetConfig(self.superspace, (block,) * len(counts),
                                     tuple(min(window, n - 1) for n in counts))

    def __len__(self) -> int:
        """Number of different spaces."""
        return prod(len(self.blocks) * stage.num_windows for stage in self.space.searched)

    def random(self, rng: np.random.Generator) -> SupernetConfig:
        """Block type and window of every stage drawn uniformly."""
        blocks = rng.choice(self.blocks, size=len(self.space.searched))
        windows = [rng.integers(stage.num_windows) for stage in self.space.searched]
        return SupernetConfig(self.superspace, tuple(map(int, blocks)), tuple(map(int, windows)))

    def random_nets(self, resolution: int, classes: int) -> list[NetSpec]:
        """Twenty random subnets of random spaces, at `resolution` pixels, always the same ones."""
        rng, nets = np.random.default_rng(0), []
        for _ in range(20):
            space = self.random(rng)
            nets.append(resolve(space, SubnetSpace(space, (resolution,)).sample(rng), classes))
        return nets

    def mutate_block(self, config: SupernetConfig, rng: np.random.Generator) -> SupernetConfig | None:
        """Give one stage another block type; None if there is only one type."""
        blocks = _change_one(config.blocks, [self.blocks] * len(config.blocks), rng)
        return blocks and SupernetConfig(config.superspace, blocks, config.windows)

    def mutate_window(self, config: SupernetConfig, rng: np.random.Generator) -> SupernetConfig | None:
        """Give one stage another window; None if no stage has several."""
        windows = _change_one(config.windows, [range(stage.num_windows) for stage in self.space.searched], rng)
        return windows and SupernetConfig(config.superspace, config.blocks, windows)


def _change_one(values: tuple[int, ...], options: Sequence[Sequence[int]], rng: np.random.Generator
                ) -> tuple[int, ...] | None:
    others = [[o for o in allowed if o != value] for value, allowed in zip(values, options, strict=True)]
    free = [i for i, allowed in enumerate(others) if allowed]
    if not free:
        return None
    stage = free[rng.integers(len(free))]
    return (*values[:stage], others[stage][rng.integers(len(others[stage]))], *values[stage + 1:])
