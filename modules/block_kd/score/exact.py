"""The Q-T score without sampling: the joint distribution of summed loss and latency, computed from the tables.

Every table becomes a histogram over loss and latency, one per resolution; the histogram of a sum is the convolution of
the histograms, a product of their Fourier transforms. Along the loss axis everything stays transformed until the end.
A space is put together from the first and the second half of its stages. Halves are kept: neighbouring spaces share
them.
"""
from __future__ import annotations

from itertools import pairwise

import numpy as np

from modules.block_kd.lut.tables import BlockTables, StageRows, choices
from modules.block_kd.score.bytes_cache import BytesCache
from modules.block_kd.score.grid import ANY, LossLatencyGrid
from modules.block_kd.score.order_statistics import expected_quality
from modules.block_kd.score.quality import CHUNKS, DRAWS, Quality, Target
from modules.search_space.config import SupernetConfig

_ROUNDING = 1e-12  # a share of subnets below it is 0: transforms leave errors of about 1e-17
Half = dict[int, np.ndarray]  # (resolutions, loss frequencies, latency) for each width at the open end


class ExactEstimator:
    """Expectation of `SampleEstimator` under one limit.

    Args:
        tables, others, target, coupling: as for `SampleEstimator`.
        rounding: of rows to grid points, see `LossLatencyGrid`.
        refine: factor on the number of grid points of both axes.
        cache_mb: memory for histograms and halves.

    Discretisation: let S be the number of stages (one more if the other stages are sampled), h the latency step and d
    the loss step. A summed latency then moves by less than S * h and a summed loss by less than S * d. Rounding "up"
    makes every subnet slower and worse than it is, "down" faster and better. The two shares within the limit enclose
    the true one. The two scores enclose the true score if at least about 50 feasible subnets are expected. `bounds`
    gives both scores.
    """

    def __init__(self, tables: BlockTables, others: tuple[np.ndarray, ...], target: Target,
                 coupling: str = "independent", rounding: str = "split", refine: int = 1, cache_mb: float = 512):
        self.tables, self.others, self.target, self.coupling = tables, others, target, coupling
        self.chained, self.refine = coupling == "chained", refine
        self.grid = LossLatencyGrid(tables, others, target, rounding, refine)
        self._cache = BytesCache(cache_mb * 1e6)
        self._end = self.grid.other_stages(others)

    def __call__(self, config: SupernetConfig) -> Quality:
        grid, keys = self.grid, tuple(enumerate(choices(config)))
        middle = len(keys) // 2
        first, second = self._first_half(keys[:middle]), self._second_half(keys[middle:])
        spectrum = np.zeros((len(self.others), grid.loss_bins // 2 + 1), complex)
        for width in first.keys() & second.keys():
            spectrum += np.einsum("rlt,rlt->rl", first[width], second[width])
        cdf = np.cumsum(np.fft.irfft(spectrum, grid.loss_bins), axis=1)
        drawn = self._drawn_share(config)
        start = grid.loss_step * sum(grid.offset(*key) for key in keys)
        return self._expected(cdf, drawn, start)

    def bounds(self, config: SupernetConfig) -> tuple[float, float]:
        """Lowest and highest possible score under the discretisation, on a grid twice as fine."""
        low, high = (ExactEstimator(self.tables, self.others, self.target, self.coupling, rounding,
                                    2 * self.refine)(config).score for rounding in ("up", "down"))
        return low, high

    def _expected(self, cdf: np.ndarray, drawn: np.ndarray, start: float) -> Quality:
        """From the chance per resolution (row) that a subnet is drawn, within the limit and of loss up to (column).

        The number of chunks of a resolution is random (multinomial). R mixtures replace it. Each leans by
        1/sqrt(chunks) towards one of the R resolutions; together they have the mean and the covariance of the shares.
        """
        lean, qualities = 1 / np.sqrt(CHUNKS), []
        for r in range(len(cdf)):
            mixed = (1 - lean) * cdf.mean(0) + lean * cdf[r]
            draws = (1 - lean) * drawn.mean() + lean * drawn[r]
            mixed = np.maximum.accumulate(np.maximum(mixed, 0.0))
            qualities.append(expected_quality(mixed / max(draws, 1e-300), self.grid.loss_step, start, DRAWS * draws,
                                              self.target))
        mean = [float(np.mean([getattr(q, name) for q in qualities])) for name in ("score", "latency_loss", "top_loss")]
        feasible = float(cdf[:, -1].sum()) / max(float(drawn.sum()), 1e-300)
        return Quality(*mean, feasible if feasible > _ROUNDING else 0.0)

    def _first_half(self, keys: tuple) -> Half:
        return self._cache.get(("first", keys), lambda: _compact(self._grow(keys, reverse=False)))

    def _second_half(self, keys: tuple) -> Half:
        """The second half cumulated over latency and reversed: its product with the first half sums up all pairs within
        the limit."""
        return self._cache.get(("second", keys), lambda: _compact(
            {width: np.cumsum(v, axis=2)[..., ::-1] for width, v in self._grow(keys, reverse=True).items()}))

    def _grow(self, keys: tuple, reverse: bool) -> Half:
        """The stages of `keys` added up from the first on, or with `reverse` from the last on, cut at the limit."""
        if not keys:
            nothing = np.zeros((1, 1, self.grid.latency_bins), complex)
            nothing[..., 0] = 1
            return {ANY: nothing}
        outer, rest = (keys[0], keys[1:]) if reverse else (keys[-1], keys[:-1])
        inner = {ANY: self._end if reverse else 1.0}
        if rest:
            inner = self._cache.get((reverse, rest), lambda: self._transform(self._grow(rest, reverse)))
        kernels = self._cache.get(outer, lambda: self.grid.kernels(*outer, self.chained))
        sums: Half = {}
        for (first, last), kernel in kernels.items():
            meets, opens = (last, first) if reverse else (first, last)
            if meets in inner:
                product = inner[meets] * kernel
                sums[opens] = sums[opens] + product if opens in sums else product
        return {width: np.fft.ifft(s)[..., : self.grid.latency_bins] for width, s in sums.items()}

    def _transform(self, half: Half) -> Half:
        return {width: np.fft.fft(values, 2 * self.grid.latency_bins) for width, values in half.items()}

    def _drawn_share(self, config: SupernetConfig) -> np.ndarray:
        """For each resolution the share of chains with a matching row at every stage; 1 for independent rows."""
        if not self.chained:
            return np.ones(len(self.others))
        return np.array([_surviving(stages) for stages in zip(*self.tables.of(config), strict=True)])


def _surviving(stages: StageRows) -> float:
    """Share of the chains through `stages` (at one resolution) that never meet a width without rows."""
    chance = np.full(len(stages[0].loss), 1 / len(stages[0].loss))  # of each row of the current stage
    for rows, following in pairwise(stages):
        widths, inverse, count = np.unique(following.input_width, return_inverse=True, return_counts=True)
        arriving = np.array([chance[rows.last_width == width].sum() for width in widths])
        chance = (arriving / count)[inverse]
    return float(chance.sum())


def _compact(half: Half) -> Half:
    # A copy: a view would keep the array behind it, twice as long, in memory.
    return {width: np.ascontiguousarray(values) for width, values in half.items()}
