"""The Q-T score by drawing 100,000 subnets, as published, without a loop over them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.block_kd.lut.tables import BlockTables, Choice, Rows, StageRows, choices
from modules.block_kd.score.quality import CHUNK_SIZE, CHUNKS, DRAWS, Quality, Target, quality_of_draws
from modules.block_kd.score.sizes import TableSizes, gather
from modules.search.footprint import Footprint
from modules.search_space.config import SupernetConfig


@dataclass(frozen=True)
class _Column:
    """The share of one stage in every drawn subnet: loss and latency (ms) of shape (draws,), and sizes if they
    count."""

    loss: np.ndarray
    latency: np.ndarray
    size: Footprint | None


class SampleEstimator:
    """Monte Carlo estimate for one limit.

    All spaces are scored with the same random numbers: number u of a stage picks row floor(u * n) of the stage's table.
    Tables are ordered by loss, so spaces that differ in one stage draw similar subnets. Most of the noise cancels when
    they are compared. A table's 100,000 drawn values can also be kept (0.8 MB in float32).

    Args:
        tables: the block tables.
        others: for each resolution the equally likely latencies (ms) of the other stages.
        target: the limit.
        coupling: "independent" combines any rows; "chained" only rows whose input width is the last width of the row
            before. Rows of the first stage are free. A chain that finds no such row does not count as drawn.
        sizes: of the rows, and their limits; None without limits beside latency.
        seed: anything `numpy.random.default_rng` takes; the same seed gives the same scores.
    """

    def __init__(self, tables: BlockTables, others: tuple[np.ndarray, ...], target: Target,
                 coupling: str = "independent", seed=0, sizes: TableSizes | None = None):
        self.tables, self.target, self.chained, self.sizes = tables, target, coupling == "chained", sizes
        rng = np.random.default_rng(seed)
        chunks = np.bincount(rng.integers(len(others), size=CHUNKS), minlength=len(others))
        ends = np.cumsum(chunks) * CHUNK_SIZE
        self._parts = [slice(end - n * CHUNK_SIZE, end) for n, end in zip(chunks, ends, strict=True)]
        self._uniform = rng.random((len(tables.stages), DRAWS))
        self._other = np.empty(DRAWS, np.float32)
        for part, latencies in zip(self._parts, others, strict=True):
            self._other[part] = rng.choice(latencies, size=part.stop - part.start)
        if sizes:
            self._other_size = gather(sizes.others, [np.zeros(p.stop - p.start, int) for p in self._parts])
        self._kept: dict[tuple, _Column] = {}

    def __call__(self, config: SupernetConfig) -> Quality:
        columns, dead = self._columns(config)
        latency = self._other.copy()
        for column in columns:
            latency += column.latency
        feasible = latency <= self.target.limit
        if dead is not None:
            feasible &= ~dead
        feasible &= self._small_enough(columns)
        picked = np.flatnonzero(feasible)
        losses = np.zeros(len(picked), np.float32)
        for column in columns:
            losses += column.loss[picked]
        return quality_of_draws(losses, DRAWS if dead is None else max(1, DRAWS - int(dead.sum())), self.target)

    def draw(self, config: SupernetConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loss, latency (ms) and resolution (pixels) of the drawn subnets of one space that keep the limits of size,
        each of shape (subnets,), such as (100000,)."""
        columns, dead = self._columns(config)
        resolution = np.empty(DRAWS, int)
        for part, value in zip(self._parts, self.tables.resolutions, strict=True):
            resolution[part] = value
        loss, latency = sum(c.loss for c in columns), self._other + sum(c.latency for c in columns)
        keep = np.ones(DRAWS, bool) if dead is None else ~dead
        keep &= self._small_enough(columns)
        return loss[keep], latency[keep], resolution[keep]

    def _small_enough(self, columns: list[_Column]) -> np.ndarray | bool:
        """Mask of the drawn subnets that keep the limits of size."""
        if self.sizes is None:
            return True
        return self.sizes.limits.keep(sum((column.size for column in columns), self._other_size))

    def _columns(self, config: SupernetConfig):
        stages = self.tables.of(config)
        if self.chained:
            return self._chain(stages, choices(config))
        keys = list(enumerate(choices(config)))
        for key, rows in zip(keys, stages, strict=True):
            if key not in self._kept:
                self._kept[key] = self._independent(*key, rows)
        return [self._kept[key] for key in keys], None

    def _independent(self, stage: int, choice: Choice, rows: StageRows) -> _Column:
        return self._column(stage, choice, rows, [
            (self._uniform[stage, part] * len(r.loss)).astype(np.intp)
            for part, r in zip(self._parts, rows, strict=True)])

    def _column(self, stage: int, choice: Choice, rows: StageRows, indices: list[np.ndarray]) -> _Column:
        """The rows number `indices[i]` of `rows[i]`, for each resolution i."""
        loss, latency = (np.concatenate([getattr(r, name)[i] for r, i in zip(rows, indices, strict=True)],
                                        dtype=np.float32) for name in ("loss", "latency"))
        return _Column(loss, latency, gather(self.sizes.of(stage, choice), indices) if self.sizes else None)

    def _chain(self, stages: list[StageRows], chosen: Sequence[Choice]):
        columns, dead, width = [], np.zeros(DRAWS, bool), None
        for stage, (choice, rows) in enumerate(zip(chosen, stages, strict=True)):
            indices, last = [], np.zeros(DRAWS, int)
            for part, r in zip(self._parts, rows, strict=True):
                index, lost = _matching_rows(r, self._uniform[stage, part], None if width is None else width[part])
                indices.append(index)
                last[part] = r.last_width[index]
                dead[part] |= lost
            columns.append(self._column(stage, choice, rows, indices))
            width = last
        return columns, dead


def _matching_rows(rows: Rows, uniform: np.ndarray, width: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Row indices that `uniform` picks among the rows of input width `width` (None: all), and a mask of failed
    picks."""
    if width is None:
        return (uniform * len(rows.loss)).astype(np.intp), np.zeros(len(uniform), bool)
    order = np.argsort(rows.input_width, kind="stable")
    ordered = rows.input_width[order]
    first, last = np.searchsorted(ordered, width, "left"), np.searchsorted(ordered, width, "right")
    index = np.minimum(first + (uniform * (last - first)).astype(np.intp), len(order) - 1)
    return order[index], first == last
