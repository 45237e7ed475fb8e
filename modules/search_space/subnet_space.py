"""The set of subnets of one search space: its extremes, and draws, mutations, crossings and checks of its members."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, TypeVar

from modules.search_space.config import BlockChoice, SubnetChoiceConfig, SupernetConfig
from modules.search_space.superspace import Candidate
from modules.utils.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    Rng = np.random.Generator | np.random.RandomState

T = TypeVar("T")


@dataclass(frozen=True)
class StageOptions:
    """The options of one elastic stage."""

    name: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    candidate: Candidate

    def extreme(self, end: Callable) -> tuple[BlockChoice, ...]:
        """The stage with `end` (min or max) applied to every list of options."""
        c = self.candidate
        return (BlockChoice(end(c.kernels), end(self.widths), end(c.expands)),) * end(self.depths)

    def sample(self, rng: Rng, align: bool = False) -> tuple[BlockChoice, ...]:
        """A uniform draw of the depth, then of each block; with `align` all blocks repeat the first one's choice."""
        depth = pick(rng, self.depths)
        blocks = tuple(self.sample_block(rng) for _ in range(depth))
        return blocks[:1] * depth if align else blocks

    def sample_block(self, rng: Rng) -> BlockChoice:
        """A uniform draw of kernel size, width and expand ratio, in this order. A block without a ratio draws none."""
        c = self.candidate
        kernel, width = pick(rng, c.kernels), pick(rng, self.widths)
        return BlockChoice(kernel, width, pick(rng, c.expands) if c.expands != (None,) else None)


def pick(rng: Rng, options: Sequence[T]) -> T:
    """One of `options`, uniformly."""
    # The stream of `rng.choice` in a fraction of its time; with numpy's legacy RandomState it is the published stream.
    draw = rng.integers if hasattr(rng, "integers") else rng.randint
    return options[int(draw(len(options)))]


@dataclass(frozen=True)
class SubnetSpace:
    """All subnets of `config` at `resolutions` (pixels); with `any_resolution`, `check` allows all others too.

    Every method that draws takes `rng`, a numpy Generator or RandomState; ranks that must agree pass equal states.
    """

    config: SupernetConfig
    resolutions: tuple[int, ...]
    any_resolution: bool = False

    @cached_property
    def stages(self) -> tuple[StageOptions, ...]:
        """The options of each elastic stage, in order."""
        space, searched = self.config.space, {}
        for stage, block, window in zip(space.searched, self.config.blocks, self.config.windows, strict=True):
            searched[stage.name] = (space.candidates[block], stage.window_widths(window))
        return tuple(
            StageOptions(s.name, s.depths, *reversed(searched.get(s.name, (space.fixed.get(s.name), s.widths))))
            for s in space.elastic
        )

    @property
    def size(self) -> int:
        """The number of different subnets."""
        per_stage = []
        for s in self.stages:
            options = len(s.candidate.kernels) * len(s.candidate.expands) * len(s.widths)
            per_stage.append(sum(options**depth for depth in s.depths))
        return prod(per_stage) * len(self.resolutions)

    def extreme(self, end: Callable) -> SubnetChoiceConfig:
        """The subnet with `end` (min or max) applied to every list of options."""
        return SubnetChoiceConfig(tuple(s.extreme(end) for s in self.stages), end(self.resolutions))

    def sample(self, rng: Rng, align: bool = False) -> SubnetChoiceConfig:
        """A uniform draw of every choice. With `align` all blocks of a stage repeat its first block's choice."""
        stages = tuple(s.sample(rng, align) for s in self.stages)
        return SubnetChoiceConfig(stages, pick(rng, self.resolutions))

    def mutate(self, choice: SubnetChoiceConfig, rng: Rng, arch_prob: float = 0.3,
               resolution_prob: float = 0.5) -> SubnetChoiceConfig:
        """Redraw each depth, kernel size, width and expand ratio with `arch_prob`, the resolution with its own."""
        def maybe(options, current):
            return pick(rng, options) if rng.uniform() < arch_prob else current

        stages = []
        for s, old in zip(self.stages, choice.stages, strict=True):
            c, blocks = s.candidate, []
            for i in range(maybe(s.depths, len(old))):
                if i >= len(old):
                    blocks.append(s.sample_block(rng))
                    continue
                b = old[i]
                blocks.append(BlockChoice(maybe(c.kernels, b.kernel), maybe(s.widths, b.width),
                                          maybe(c.expands, b.expand) if c.expands != (None,) else None))
            stages.append(tuple(blocks))
        resolution = choice.resolution
        if rng.uniform() < resolution_prob:
            resolution = pick(rng, self.resolutions)
        return SubnetChoiceConfig(tuple(stages), resolution)

    def crossover(self, a: SubnetChoiceConfig, b: SubnetChoiceConfig, rng: Rng) -> SubnetChoiceConfig:
        """For each stage the depth of either parent, then each value of each block from either. A block that one parent
        lacks comes from the other."""
        stages = []
        for blocks_a, blocks_b in zip(a.stages, b.stages, strict=True):
            depth, blocks = pick(rng, (len(blocks_a), len(blocks_b))), []
            for i in range(depth):
                pair = [blocks[i] for blocks in (blocks_a, blocks_b) if i < len(blocks)]
                blocks.append(BlockChoice(*(pick(rng, [getattr(p, name) for p in pair])
                                            for name in ("kernel", "width", "expand"))))
            stages.append(tuple(blocks))
        return SubnetChoiceConfig(tuple(stages), pick(rng, (a.resolution, b.resolution)))

    def check(self, choice: SubnetChoiceConfig) -> SubnetChoiceConfig:
        """Return `choice` if it belongs to the space; otherwise UserError that names the value, its stage and the
        allowed values."""
        if len(choice.stages) != len(self.stages):
            raise UserError(f"subnet with {len(choice.stages)} stages; {self.config} has {len(self.stages)}: "
                            f"{', '.join(s.name for s in self.stages)}")
        for s, blocks in zip(self.stages, choice.stages, strict=True):
            checks = [("depth", len(blocks), s.depths)]
            for b in blocks:
                checks += [("kernel size", b.kernel, s.candidate.kernels), ("width", b.width, s.widths),
                           ("expand ratio", b.expand, s.candidate.expands)]
            for what, value, allowed in checks:
                if value not in allowed:
                    raise UserError(f"{what} {value} in {s.name} of {self.config}; allowed: "
                                    f"{', '.join(map(str, allowed))}")
        if not self.any_resolution and choice.resolution not in self.resolutions:
            raise UserError(f"resolution {choice.resolution} of {self.config}; allowed: "
                            f"{', '.join(map(str, self.resolutions))}")
        return choice
