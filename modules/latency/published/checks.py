"""Errors of a latency model on blocks that it was not fitted on."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.latency.fitted.block_model import BlockModel, FitSettings, HeldOut, errors_held_out
from modules.latency.prediction import NORMAL_90
from modules.latency.published.tables import BlockSamples, RowSamples

HELD_OUT = 0.2  # share of the blocks
_CORRELATIONS = np.linspace(0, 1, 41)


@dataclass(frozen=True)
class Check:
    """Errors on one set: `errors` are predicted / true - 1, `covered` is the share of 90% intervals that hold the truth
    (nan: not computed)."""

    name: str
    true: np.ndarray
    predicted: np.ndarray
    covered: float = float("nan")

    @property
    def errors(self) -> np.ndarray:
        """Relative errors."""
        return self.predicted / self.true - 1

    def row(self) -> dict:
        """Figures, in percent."""
        size = np.abs(self.errors)
        covered = "" if np.isnan(self.covered) else f"{100 * self.covered:.1f}"
        return {"held out": self.name, "number": len(size), "RMS": f"{100 * np.sqrt(np.mean(size**2)):.2f}",
                "mean abs": f"{100 * size.mean():.2f}", "median abs": f"{100 * np.median(size):.2f}",
                "bias": f"{100 * self.errors.mean():+.2f}", "within 10%": f"{100 * np.mean(size < 0.1):.1f}",
                "in 90% interval": covered}


def fit(samples: BlockSamples, settings: FitSettings, types: bool = False) -> tuple[BlockModel, HeldOut]:
    """A model of `samples` and the errors of its cross-validation, which leaves out types only with `types`."""
    held_out = errors_held_out(samples.blocks, samples.hws, samples.ms, settings, types)
    return BlockModel.fit(samples.blocks, samples.hws, samples.ms, settings, held_out), held_out


def check_random_blocks(samples: BlockSamples, rows: RowSamples, settings: FitSettings) -> tuple[list[Check], float]:
    """Hold out `HELD_OUT` of the blocks at random. Check these blocks, the rows with some of them, and the rows of them
    alone.

    Returns:
        The checks, and the correlation of block errors that makes 90% intervals of the last rows cover 90%.
    """
    outside = np.random.default_rng(settings.seed).random(len(samples)) < HELD_OUT
    model, _ = fit(samples.take(~outside), settings)
    held = dict(zip(zip(samples.blocks, samples.hws, strict=True), outside, strict=True))
    ms, deviation, _ = model.predict(rows.blocks, rows.hws)
    new = np.array([held.get(key, False) for key in zip(rows.blocks, rows.hws, strict=True)], dtype=float)
    predicted, held_count, count = rows.sum(ms), rows.sum(new), rows.sum(np.ones(len(ms)))
    some, all_new = held_count > 0, held_count == count
    error = np.abs(rows.ms - predicted)[all_new]
    independent, together = rows.sum((ms * deviation) ** 2)[all_new], rows.sum(ms * deviation)[all_new] ** 2

    def coverage(correlation: float) -> float:
        return float(np.mean(error <= NORMAL_90 * np.sqrt((1 - correlation) * independent + correlation * together)))

    correlation = float(min(_CORRELATIONS, key=lambda value: abs(coverage(value) - 0.9)))
    return [check_blocks("20% of blocks", model, samples.take(outside)),
            Check("rows with such blocks", rows.ms[some], predicted[some]),
            Check("rows of such blocks alone", rows.ms[all_new], predicted[all_new], coverage(correlation)),
            ], correlation


def check_blocks(name: str, model: BlockModel, samples: BlockSamples) -> Check:
    """Check `model` on blocks that it was not fitted on."""
    ms, deviation, _ = model.predict(samples.blocks, samples.hws)
    inside = np.abs(np.log(samples.ms / ms)) <= NORMAL_90 * deviation
    return Check(name, samples.ms, ms, float("nan") if np.isnan(deviation).any() else float(inside.mean()))


def check_sizes(name: str, samples: BlockSamples, rows: RowSamples, heights: tuple[int, ...],
                settings: FitSettings) -> list[Check]:
    """Hold out all blocks with an input height in `heights`; check them and the rows of them alone."""
    outside = np.isin(samples.heights, heights)
    model, _ = fit(samples.take(~outside), settings)
    new = rows.sum(np.isin([hw[0] for hw in rows.hws], heights).astype(float)) == rows.sum(np.ones(len(rows.hws)))
    predicted = rows.sum(model.predict(rows.blocks, rows.hws)[0])
    return [check_blocks(f"{name}, blocks", model, samples.take(outside)),
            Check(f"{name}, rows", rows.ms[new], predicted[new])]


def check_types(samples: BlockSamples, held_out: HeldOut) -> list[Check]:
    """Each block type, held out and predicted from its kernels."""
    kinds = np.array([block.kind for block in samples.blocks])
    known = np.isfinite(held_out.type_errors)
    return [Check(f"all {kind}", samples.ms[part], (samples.ms / np.exp(held_out.type_errors))[part])
            for kind in sorted(set(kinds[known])) for part in [known & (kinds == kind)]]
