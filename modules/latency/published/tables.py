"""The published latency tables as lists of blocks: the published platforms are fitted to them and checked on them.

The tables are not part of the project: `<folder>/block_latency/<superspace>_blocks.csv.gz` (single blocks, recovered
from the rows of the block tables), `<folder>/block_lut/<superspace>/*.csv` (those rows: sub-stages and the sums of
their blocks) and `<folder>/onnx_block_latency.json` (nn-Meter's measured blocks).
"""
from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.latency.table import read_table
from modules.modeling.complexity import with_sizes
from modules.modeling.net_spec import stage_blocks, stage_choice
from modules.modeling.spec import BlockArgs
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import Superspace, get_superspace
from modules.utils.errors import UserError

Size = tuple[int, int]


@dataclass(frozen=True)
class BlockSamples:
    """Blocks, their input sizes in pixels, and their latencies in ms."""

    blocks: tuple[BlockArgs, ...]
    hws: tuple[Size, ...]
    ms: np.ndarray

    def __len__(self) -> int:
        return len(self.blocks)

    def take(self, index: np.ndarray) -> BlockSamples:
        """Those at `index`, which may be a mask."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        return BlockSamples(tuple(self.blocks[i] for i in index), tuple(self.hws[i] for i in index), self.ms[index])

    def __add__(self, other: BlockSamples) -> BlockSamples:
        """The samples of both; a block in both has the other's latency."""
        return make_samples({**self.table, **other.table})

    @property
    def table(self) -> dict[tuple[BlockArgs, Size], float]:
        """A mapping of (block, size) to ms."""
        return dict(zip(zip(self.blocks, self.hws, strict=True), self.ms, strict=True))

    @property
    def heights(self) -> np.ndarray:
        """Input heights in pixels, (blocks,), such as (86889,)."""
        return np.array([hw[0] for hw in self.hws])


def make_samples(table: dict[tuple[BlockArgs, Size], float]) -> BlockSamples:
    """From a mapping of (block, size) to ms."""
    return BlockSamples(tuple(b for b, _ in table), tuple(hw for _, hw in table), np.array(list(table.values())))


def read_block_table(folder: Path, superspace: str) -> BlockSamples:
    """The blocks with a latency that follows from the rows of the block tables; UserError for a missing or damaged
    file."""
    path, acts, table = folder / "block_latency" / f"{superspace}_blocks.csv.gz", _acts(superspace), {}
    try:
        with gzip.open(path, "rt", newline="") as file:
            for row in csv.DictReader(file, restval=""):
                if row["identified"] != "1":
                    continue
                kind = row["block"].removesuffix("Block")
                expand = None if row["expand"] == "None" else float(row["expand"])
                block = BlockArgs(kind, int(row["cin"]), int(row["cout"]), int(row["kernel"]), expand,
                                  int(row["stride"]), acts[kind])
                table[block, (int(row["hw"]),) * 2] = float(row["latency_ms"])
    except (OSError, EOFError, ValueError, KeyError, zlib.error, csv.Error) as error:
        words = f"no column or block {error}" if isinstance(error, KeyError) else error
        raise UserError(f"--tables {str(folder)!r}: {path.name}: {getattr(error, 'strerror', None) or words}") from None
    return make_samples(table)


def read_onnx_json(folder: Path) -> BlockSamples:
    """nn-Meter's measured blocks at five resolutions, the stages that are not searched included."""
    return make_samples(read_table(folder / "onnx_block_latency.json"))


@dataclass(frozen=True)
class RowSamples:
    """Sub-stages: `ms` of each; for each use of a block, its row and its number in `blocks` and `hws`."""

    blocks: tuple[BlockArgs, ...]
    hws: tuple[Size, ...]
    ms: np.ndarray
    row: np.ndarray
    block: np.ndarray

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums (rows,) of the blocks' `values` (blocks,), such as (3000,)."""
        return np.bincount(self.row, values[self.block], len(self.ms))


def read_table_rows(folder: Path, superspace: str, every: int = 1) -> RowSamples:
    """Every `every`-th row of each block table of `superspace`."""
    known: dict[tuple[BlockArgs, Size], int] = {}
    ms, rows, uses = [], [], []
    for stage, fields in _lut_lines(folder / "block_lut" / superspace, get_superspace(superspace), every):
        for key in stage:
            rows.append(len(ms))
            uses.append(known.setdefault(key, len(known)))
        ms.append(float(fields[5]))
    return RowSamples(tuple(b for b, _ in known), tuple(hw for _, hw in known), np.array(ms), np.array(rows),
                      np.array(uses))


def _lut_lines(folder: Path, space: Superspace, every: int) -> Iterator[tuple[list[tuple[BlockArgs, Size]], list[str]]]:
    names = [stage.name for stage in space.searched]
    for path in sorted(folder.glob("*.csv")):
        name, block, window = path.stem.rsplit("_", 2)
        digits = [["0"] * len(names), ["0"] * len(names)]
        digits[0][names.index(name)], digits[1][names.index(name)] = block, window
        config = SupernetConfig.from_choice(space.name, "-".join(map("".join, digits)))
        for line in path.read_text().splitlines()[::every]:
            fields = line.split(",")
            shape = re.fullmatch(r"1x(\d+)x(\d+)x\2", fields[1]) if len(fields) == 6 else None
            if not shape:
                raise UserError(f"{path}: row {line!r}; expected blocks,1xCxHxH,loss,MACs,parameters,latency")
            cin, size = map(int, shape.groups())
            candidate, choices = stage_choice(config, name, fields[0])
            stage = stage_blocks(candidate, space.stage(name), cin, choices)
            yield [(spec.args, hw) for spec, hw in with_sizes(stage, (size, size))], fields


def _acts(superspace: str) -> dict[str, str]:
    return {candidate.block: candidate.act for candidate in get_superspace(superspace).candidates}
