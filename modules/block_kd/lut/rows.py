"""Rows of a block table: the draw of their configurations, and their text form. No torch code."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.block_kd.lut.counts import count_stage
from modules.block_kd.student.space import StageChoice, student_space
from modules.latency.platform import Platform
from modules.modeling.complexity import with_sizes
from modules.modeling.net_spec import stage_blocks
from modules.modeling.spec import output_size
from modules.search_space.config import BlockChoice
from modules.search_space.subnet_space import pick
from modules.search_space.superspace import StageTable, Superspace, get_superspace
from modules.utils.errors import UserError


@dataclass(frozen=True)
class TableRow:
    """Row `index` of the table of `stage`, `block` and width window `window`: a configuration and a resolution."""

    superspace: str
    stage: str
    block: int
    window: int
    index: int
    choice: StageChoice
    resolution: int

    @classmethod
    def draw(cls, seed: int, superspace: str, stage: str, block: int, window: int, index: int,
             resolutions: tuple[int, ...]) -> TableRow:
        """Draw the row from `seed`; it does not depend on other rows. Order of the draws: depth, blocks,
        input width (from the whole width list of the stage before), resolution."""
        position = [s.name for s in get_superspace(superspace).searched].index(stage)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(position, block, window, index)))
        choice = student_space(superspace, stage, block).window(window).sample(rng)
        return cls(superspace, stage, block, window, index, choice, pick(rng, resolutions))

    @property
    def table(self) -> str:
        """Name of the file."""
        return f"{self.stage}_{self.block}_{self.window}.csv"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, channels, height, width) of the stage's input."""
        space = get_superspace(self.superspace)
        size = input_size(space, space.stage(self.stage), self.resolution)
        return 1, self.choice.cin, size, size

    @property
    def blocks(self):
        """The specs of the row's blocks."""
        space = student_space(self.superspace, self.stage, self.block)
        return stage_blocks(space.options.candidate, space.table, self.choice.cin, self.choice.blocks)

    def latency(self, platform: Platform) -> float:
        """Sum of the blocks' latencies (ms) on `platform`, each at the size of its input."""
        return sum((platform.predict_block(block.args, hw)
                    for block, hw in with_sizes(self.blocks, self.input_shape[2:])), 0.0)

    @property
    def key(self) -> str:
        """The first two fields of its line: `k#w#e_k#w#e...,1xCxHxH`."""
        return f"{format_blocks(self.choice.blocks)},{'x'.join(map(str, self.input_shape))}"

    def line(self, loss: float, platform: Platform) -> str:
        """The row as in the file: `k#w#e_...,1xCxHxH,loss,MFLOPs,Mparams,latency_ms`."""
        counts = count_stage(self.superspace, self.stage, self.block, format_blocks(self.choice.blocks),
                             self.input_shape)
        return ",".join((self.key, *(f"{n:.4f}" for n in (loss, *counts, self.latency(platform)))))


def check_drawn(path: str, keys: list[str], seed: int, table: tuple[str, str, int, int],
                resolutions: list[int]) -> None:
    """UserError that names the line if the rows of the file `path` repeat a row that was not drawn twice, or lack a row
    before the last. `keys`: the `key` of each row in order. `table`: superspace, stage, block and window.

    Only repeated rows and the last one are drawn again: all of them would take minutes.
    """
    seen = set()
    for index, key in enumerate(keys):
        if key in seen or index == len(keys) - 1:
            drawn = TableRow.draw(seed, *table, index, tuple(resolutions)).key
            if key != drawn:
                raise UserError(f"{path}, line {index + 1}: {key[:80]!r} repeats a row or follows a missing one, for "
                                f"seed {seed} draws {drawn!r} here; build the table again")
        seen.add(key)


def input_size(space: Superspace, stage: StageTable, resolution: int) -> int:
    """Height and width in pixels at the input of `stage`: the strides before it, each rounded up."""
    for before in space.stages[: space.stages.index(stage)]:
        resolution = output_size(resolution, before.stride)
    return resolution


def format_blocks(blocks: tuple[BlockChoice, ...]) -> str:
    """`kernel#width#expand` of each block, joined by underscores, as in `3#48#None_5#64#None`."""
    return "_".join(f"{b.kernel}#{b.width}#{b.expand}" for b in blocks)
