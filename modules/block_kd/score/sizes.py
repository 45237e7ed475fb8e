"""Limits beside latency in the score of a space: the sizes of the rows of block tables."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from modules.block_kd.lut.rows import input_size
from modules.block_kd.lut.tables import BlockTables, Choice, Rows
from modules.modeling.complexity import with_sizes
from modules.modeling.net_spec import resolve, stage_blocks, stage_choice
from modules.search.footprint import BARE_FILE, Footprint, blocks_footprint
from modules.search.limits import SizeLimits
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError

_NEEDS = {"memory_mb": ("weight_mb", "activation_mb")}  # a measure that is the sum of two fields of a footprint


class TableSizes:
    """The sizes of table rows that `limits` need; the other fields of the footprints are 0.

    A subnet is as large as its rows and the smallest configuration of the stages that are not searched together.

    Args:
        tables: the block tables.
        limits: at least one.
        num_classes: of the classifier.

    Raises:
        UserError: a limit below the smallest rows.
    """

    def __init__(self, tables: BlockTables, limits: SizeLimits, num_classes: int = 1000):
        self.tables, self.limits, self.space = tables, limits, get_superspace(tables.superspace)
        self._fields = {field for name in limits.given for field in _NEEDS.get(name, (name,))}
        self._kept: dict[tuple[int, Choice], tuple[Footprint, ...]] = {}
        self.others = tuple(self._stack([self._other_stages(r, num_classes)]) for r in tables.resolutions)
        least = [_least([self.of(s, choice)[r] for choice in stage])
                 for r, other in enumerate(self.others) for s, stage in enumerate(tables.stages)]
        count = len(tables.stages)
        smallest = [sum(least[r * count:(r + 1) * count], _least([other])) for r, other in enumerate(self.others)]
        if not any(limits.keep(footprint) for footprint in smallest):
            raise UserError(f"{limits}: below every subnet; the least that the tables of {tables.superspace} give: "
                            f"{limits.describe(_least(smallest))}")

    def of(self, stage: int, choice: Choice) -> tuple[Footprint, ...]:
        """The footprints of the rows of one table: for each resolution arrays of shape (n,), in the order of rows."""
        key = stage, choice
        if key not in self._kept:
            rows = zip(self.tables.stages[stage][choice], self.tables.resolutions, strict=True)
            self._kept[key] = tuple(self._rows(stage, choice, found, resolution) for found, resolution in rows)
        return self._kept[key]

    def _rows(self, stage: int, choice: Choice, rows: Rows, resolution: int) -> Footprint:
        table = self.space.searched[stage]
        size = input_size(self.space, table, resolution)
        digits = np.zeros((2, len(self.space.searched)), int)
        digits[:, stage] = choice
        config = SupernetConfig(self.space.name, *(tuple(row) for row in digits.tolist()))
        footprints = []
        for encoding, cin in zip(rows.encodings, rows.input_width, strict=True):
            candidate, blocks = stage_choice(config, table.name, encoding)
            footprints.append(blocks_footprint(stage_blocks(candidate, table, int(cin), blocks), (size, size)))
        return self._stack(footprints)

    def _other_stages(self, resolution: int, num_classes: int) -> Footprint:
        """Footprint of the stages that are not searched, in the smallest configuration."""
        none = (0,) * len(self.space.searched)
        config = SupernetConfig(self.space.name, none, none)
        net = resolve(config, SubnetSpace(config, (resolution,)).extreme(min), num_classes)
        searched = {stage.name for stage in self.space.searched}
        names = [stage for stage, blocks in net.stages for _ in blocks]
        sized = with_sizes((block for _, block in net.blocks), (resolution, resolution))
        return sum((blocks_footprint((block,), hw) for name, (block, hw) in zip(names, sized, strict=True)
                    if name not in searched), BARE_FILE)

    def _stack(self, footprints: Sequence[Footprint]) -> Footprint:
        return Footprint(**{name: np.array([getattr(f, name) for f in footprints], np.float32)
                            for name in self._fields})


def gather(footprints: Sequence[Footprint], indices: Sequence[np.ndarray]) -> Footprint:
    """The entries `indices[i]` of `footprints[i]`, one part after the other; plain numbers stay."""
    first = footprints[0]
    return Footprint(**{field.name: np.concatenate([getattr(f, field.name)[i]
                                                    for f, i in zip(footprints, indices, strict=True)])
                        for field in fields(first) if isinstance(getattr(first, field.name), np.ndarray)})


def _least(footprints: Sequence[Footprint]) -> Footprint:
    """The smallest entry of each field."""
    return Footprint(*(min(float(np.min(getattr(f, field.name))) for f in footprints) for field in fields(Footprint)))
