"""A predictor of block latencies, fitted to measured or published ones and kept in one portable file.

The prediction is the sum of the block's kernels (`kernel_model`), times a correction by boosted trees over whole
blocks. The trees learn effects that the sum lacks, such as operations that an engine fuses. A block type that was not
fitted is predicted from its kernels alone.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from modules.latency.fitted.domain import OUTSIDE, Domain, fit_domain
from modules.latency.fitted.features import block_features, block_kernels
from modules.latency.fitted.kernel_model import KernelModel, fit_kernel_model
from modules.latency.fitted.model_file import read_parts
from modules.latency.fitted.spread import Spread, fit_spread
from modules.latency.fitted.trees import Trees, fit_trees
from modules.modeling.spec import BlockArgs
from modules.utils.errors import UserError
from modules.utils.files import atomic_write

Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class FitSettings:
    """Settings of the fit of a `BlockModel`; the defaults suit some hundred measured blocks.

    `kernel_rounds`, `block_rounds`: number of trees over kernels and over blocks, of `leaves` leaves each; 0 leaves
    that part out.
    `huber`: larger relative errors count as this much, so that broken measurements do not pull. `loss`: of the trees
    over blocks, "l1" or "l2". `min_leaf`: fewest blocks of a leaf. `rare`: blocks of a rarer type are repeated to this
    number. `folds`: parts of the cross-validation that gives the uncertainty; 0: none.
    """

    kernel_rounds: int = 200
    block_rounds: int = 200
    leaves: int = 15
    rate: float = 0.05
    min_leaf: int = 5
    loss: str = "l2"
    huber: float = 0.3
    rare: int = 30
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True)
class HeldOut:
    """Errors (logarithm of true over predicted) of models that were fitted without the block; (blocks,) each.

    `errors`: part `fold` of the blocks was left out. `size_errors`: part `size` of the input sizes was left out (nan
    for the largest and the smallest). `type_errors`: block type number `kind` was left out and predicted from its
    kernels (nan for rare types).
    """

    fold: np.ndarray
    errors: np.ndarray
    size: np.ndarray
    size_errors: np.ndarray
    kind: np.ndarray
    type_errors: np.ndarray


@dataclass(frozen=True)
class BlockModel:
    """Latency of blocks. `kernels` gives the sum of a block's kernels, `trees` the logarithm of its correction."""

    kernels: KernelModel
    domain: Domain
    trees: Trees | None = None
    spread: Spread | None = None

    @staticmethod
    def fit(blocks: Sequence[BlockArgs], hws: Sizes, ms: Sequence[float], settings: FitSettings | None = None,
            held_out: HeldOut | None = None, representative: np.ndarray | None = None) -> BlockModel:
        """Fit to `ms`, the latencies of `blocks` on inputs of `hws` pixels.

        Args:
            blocks, hws, ms: equally long; `ms` in milliseconds, above 0.
            settings: of the fit.
            held_out: errors of cross-validation, if they are known already.
            representative: (blocks,) bool: drawn from the same law as the blocks to predict; None: all are.

        Raises:
            UserError: fewer than 10 blocks, or a latency that is not a finite number above 0.
        """
        settings, ms = settings or FitSettings(), np.asarray(ms, dtype=float)
        if len(ms) < 10:
            raise UserError(f"{len(ms)} measured blocks; a latency model needs at least 10")
        for block, hw, value in zip(blocks, hws, ms, strict=True):
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"latency {value} ms of {block} at {hw[0]} x {hw[1]}; expected a number above 0")
        model = _fit(blocks, hws, ms, settings)
        if not settings.folds:
            return model
        h = held_out or errors_held_out(blocks, hws, ms, settings)
        return replace(model, spread=fit_spread(model.features(blocks, hws)[0], (h.fold, h.errors),
                                                ((h.size, h.size_errors), (h.kind, h.type_errors)), representative))

    def features(self, blocks: Sequence[BlockArgs], hws: Sizes) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (blocks, columns) of the trees, and sums of the kernels in ms (blocks,). Example: (500, 37) and
        (500,)."""
        kernels = block_kernels(blocks, hws)
        base = self.kernels.predict(kernels)
        types = np.array([self.domain.type_index(block) for block in blocks], dtype=float)
        return np.column_stack([types, np.log(base), block_features(blocks, hws, kernels)]), base

    def predict(self, blocks: Sequence[BlockArgs], hws: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict `blocks` on inputs of `hws` pixels.

        Returns:
            Three arrays (blocks,), such as (17,). First the latency in ms. Second the relative standard deviation of
            its error, nan if the fit had no folds: latency * exp(+-1.645 deviation) covers 90% of blocks that were
            not fitted. Third, bool: the block lies outside the fitted domain.
        """
        if not len(blocks):
            return np.zeros(0), np.zeros(0), np.zeros(0, bool)
        features, base = self.features(blocks, hws)
        known, levels = self.domain.fitted(blocks), self.domain.levels(blocks, hws)
        ms = base.copy()
        if self.trees and known.any():
            ms[known] *= np.exp(self.trees.predict(features[known]))
        deviation = self.spread.predict(features, levels) if self.spread else np.full(len(ms), np.nan)
        return ms, deviation, levels == OUTSIDE

    def save(self, path: str | Path) -> None:
        """Write one compressed file of arrays and text; it holds no code."""
        meta = {"domain": asdict(self.domain), "known": self.kernels.known,
                "spread": self.spread.to_dict() if self.spread else None}
        texts = {"meta": json.dumps(meta), "kernel_trees": self.kernels.trees, "trees": self.trees,
                 "spread_trees": self.spread.trees if self.spread else None}
        arrays = {name: np.frombuffer((t.text if isinstance(t, Trees) else t).encode(), np.uint8)
                  for name, t in texts.items() if t is not None}
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, coefficients=self.kernels.coefficients, **arrays)

    @staticmethod
    def load(path: str | Path) -> BlockModel:
        """Read a file of `save`; UserError if it is missing, damaged or something else."""
        return BlockModel(*read_parts(path))


def _take(values: Sequence, index: np.ndarray) -> list:
    return [values[i] for i in index]


def _fit(blocks, hws, ms, settings: FitSettings) -> BlockModel:
    domain = fit_domain(blocks, hws)
    rows = _repeat_rare(np.array([domain.type_index(block) for block in blocks]), settings.rare)
    blocks, hws, ms = _take(blocks, rows), _take(hws, rows), ms[rows]
    kernels = fit_kernel_model(block_kernels(blocks, hws), ms, settings.kernel_rounds, settings.leaves,
                               settings.min_leaf, settings.huber, settings.seed)
    model = BlockModel(kernels, domain)
    if not settings.block_rounds:
        return model
    features, base = model.features(blocks, hws)
    target = np.clip(np.log(ms / base), -3 * settings.huber, 3 * settings.huber)
    return replace(model, trees=fit_trees(
        features, target, rounds=settings.block_rounds, leaves=settings.leaves, rate=settings.rate,
        min_leaf=settings.min_leaf, seed=settings.seed, loss=settings.loss, categories=(0,)))


def errors_held_out(blocks, hws, ms, settings: FitSettings, types: bool = True) -> HeldOut:
    """Leave out one part after the other, and predict it by a fit to the rest. Without `types`, `type_errors` is not
    computed.
    """
    def errors(part, count, wanted, settings=settings):
        result = np.full(len(ms), np.nan)
        for number in range(count):
            inside, outside = np.flatnonzero(part != number), np.flatnonzero((part == number) & wanted)
            if len(outside) and len(inside):
                model = _fit(_take(blocks, inside), _take(hws, inside), ms[inside], settings)
                result[outside] = np.log(ms[outside] / model.predict(_take(blocks, outside), _take(hws, outside))[0])
        return result

    every = np.ones(len(ms), bool)
    fold = np.random.default_rng(settings.seed).permutation(len(ms)) % settings.folds
    heights, size = np.unique([hw[0] for hw in hws], return_inverse=True)
    kinds, kind = np.unique([block.kind for block in blocks], return_inverse=True)
    middle = (size > 0) & (size < len(heights) - 1)
    frequent = np.bincount(kind)[kind] >= max(settings.rare, len(ms) // 100)
    return HeldOut(
        fold, errors(fold, settings.folds, every), size % settings.folds,
        errors(size % settings.folds, settings.folds, middle),
        kind, errors(kind, len(kinds) if types else 0, frequent, replace(settings, block_rounds=0)))


def _repeat_rare(types: np.ndarray, least: int) -> np.ndarray:
    """Row numbers; those of a type with fewer than `least` rows are repeated until it has `least`."""
    counts = np.bincount(types)
    return np.repeat(np.arange(len(types)), np.maximum(1, -(-least // counts[types])))
