"""Histograms of table rows over (loss, latency), in the form that stages are added up in."""
from __future__ import annotations

import numpy as np

from modules.block_kd.lut.tables import BlockTables, Choice, StageRows
from modules.block_kd.score.quality import Target

LOSS_STEP, LATENCY_BINS, MOST_LOSS_BINS = 0.0085, 128, 1024
ANY = 0  # stands for every width where widths need not meet


class LossLatencyGrid:
    """The grid for one limit: `loss_bins` points `loss_step` apart, `latency_bins` points `latency_steps[r]` ms apart.

    The latency axis ends at the limit less the fastest of the other stages: its step depends on the resolution. Slower
    rows are dropped. A step of None means that nothing is within the limit. The loss axis holds the largest possible
    sum.

    `rounding` is "split", "up" or "down". "up" and "down" move each row to the next grid point that is worse, or
    better, in both coordinates. "split" spreads a row over two points in latency, which keeps its mean, and over three
    points in loss, which keeps mean and variance (weights of quadratic interpolation, slightly negative in places).
    """

    def __init__(self, tables: BlockTables, others: tuple[np.ndarray, ...], target: Target, rounding: str, refine: int):
        self.tables, self.rounding = tables, rounding
        self.latency_bins = LATENCY_BINS * refine
        # A split row at the limit counts half: half a step more than with whole rows.
        last_bin = self.latency_bins - (0.5 if rounding == "split" else 1.0)
        budgets = [target.limit - other.min() for other in others]
        self.latency_steps = [budget / last_bin if budget > 0 else None for budget in budgets]

        ranges = [[_loss_range(rows) for rows in stage.values()] for stage in tables.stages]
        spread = sum(max(high - low for low, high in stage) for stage in ranges)
        # Per stage: the grid starts up to two points below the smallest row and a split row reaches one above.
        margin = 4 * len(ranges)
        wanted = min(spread / LOSS_STEP + margin, MOST_LOSS_BINS)
        self.loss_bins = refine * 32 * int(np.ceil(wanted / 32))  # a length with fast Fourier transforms
        self.loss_step = spread / (self.loss_bins - margin) or LOSS_STEP

    def offset(self, stage: int, choice: Choice) -> int:
        """Index on the loss axis at which the histograms of a table start."""
        return int(_loss_range(self.tables.stages[stage][choice])[0] // self.loss_step) - 1

    def kernels(self, stage: int, choice: Choice, chained: bool) -> dict[tuple[int, int], np.ndarray]:
        """Histograms of one table as spectra. A row weighs 1 / (number of rows of its input width).

        Returns:
            For each (input width, last width) an array (resolutions, loss frequencies, 2 * latency_bins), such as (3,
            513, 256). Widths are ANY unless `chained`. The input width of the first stage and the last width of the
            last stage are always ANY.
        """
        groups: dict[tuple[int, int], list[np.ndarray]] = {}
        offset, last_stage = self.offset(stage, choice), len(self.tables.stages) - 1
        tables = self.tables.stages[stage][choice]
        for r, rows in enumerate(tables):
            anywhere = np.full(len(rows.loss), ANY)
            first = rows.input_width if chained and stage > 0 else anywhere
            last = rows.last_width if chained and stage < last_stage else anywhere
            _, inverse, count = np.unique(first, return_inverse=True, return_counts=True)
            position = rows.loss / self.loss_step - offset
            for key in set(zip(first.tolist(), last.tolist(), strict=True)):
                m = (first == key[0]) & (last == key[1])
                histogram = self.histogram(r, position[m], rows.latency[m], 1 / count[inverse[m]])
                groups.setdefault(key, [np.zeros_like(histogram) for _ in tables])[r] = histogram
        return {key: self.spectrum(groups[key]) for key in sorted(groups)}

    def other_stages(self, others: tuple[np.ndarray, ...]) -> np.ndarray | float:
        """Spectrum (resolutions, loss frequencies, 2 * latency_bins), such as (3, 513, 256), of the latency of the
        other stages above their fastest configuration; 1 if there is only that one."""
        if all(len(other) == 1 for other in others):
            return 1.0
        histograms = [self.histogram(r, np.zeros(len(o)), o - o.min(), np.full(len(o), 1 / len(o)))
                      for r, o in enumerate(others)]
        return self.spectrum(histograms)

    def histogram(self, resolution: int, loss, latency, weight) -> np.ndarray:
        """Sums (loss_bins, latency_bins), such as (1024, 128), of `weight` (n,) of rows with `loss` (n,) in grid steps
        and `latency` (n,) in ms."""
        step, total = self.latency_steps[resolution], np.zeros(self.loss_bins * self.latency_bins)
        if step is not None:
            for row, loss_weight in self._place(loss, mean_and_variance=True):
                for column, latency_weight in self._place(latency / step):
                    keep = column < self.latency_bins
                    index = (row % self.loss_bins * self.latency_bins + column)[keep]
                    total += np.bincount(index, (weight * loss_weight * latency_weight)[keep], len(total))
        return total.reshape(self.loss_bins, self.latency_bins)

    def spectrum(self, histograms: list[np.ndarray]) -> np.ndarray:
        """Fourier transform of the histograms of all resolutions: three of (1024, 128) give (3, 513, 256). The latency
        axis is doubled: a product of two spectra, cut at its half, is then the plain convolution, not the circular
        one."""
        return np.fft.fft(np.fft.rfft(np.stack(histograms), axis=1), 2 * self.latency_bins)

    def _place(self, position: np.ndarray, mean_and_variance: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
        """Grid points and weights that represent `position` (in grid steps)."""
        if self.rounding != "split":
            whole = np.ceil(position) if self.rounding == "up" else np.floor(position)
            return [(whole.astype(int), np.ones_like(position))]
        if mean_and_variance:
            middle = np.rint(position).astype(int)
            u = position - middle
            return [(middle - 1, (u * u - u) / 2), (middle, 1 - u * u), (middle + 1, (u * u + u) / 2)]
        low = np.floor(position).astype(int)
        return [(low, 1 - (position - low)), (low + 1, position - low)]


def _loss_range(rows: StageRows) -> tuple[float, float]:
    return min(r.loss[0] for r in rows), max(r.loss[-1] for r in rows)
