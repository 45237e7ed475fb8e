"""Latency of single kernels, learned from the latencies of whole blocks.

A block takes the sum of its kernels' times. Each kernel's time is a roofline term of its kind, times a correction by
boosted trees. Only sums are known; both parts are fitted to sums. The roofline is fitted by non-negative least squares,
the trees by boosting with the gradient of the blocks' relative errors.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from modules.latency.fitted.features import KERNEL_KINDS, TERMS, Kernels
from modules.latency.fitted.trees import Trees, fit_trees

# Kinds that replace a kind that no fitted block has; kinds with nearly the same code first.
SUBSTITUTES: Mapping[str, tuple[str, ...]] = {
    "stem": ("conv3", "conv5", "conv1"), "gate": ("linear", "conv1"), "linear": ("gate", "conv1"),
    "conv1": ("conv3", "conv5"), "conv3": ("conv5", "conv7", "conv1"), "conv5": ("conv7", "conv3", "conv1"),
    "conv7": ("conv5", "conv3", "conv1"), "dw3": ("dw5", "dw7"), "dw5": ("dw7", "dw3"), "dw7": ("dw5", "dw3"),
    "pool": ("add", "relu"), "mul": ("add", "relu"), "add": ("mul", "relu"), "relu": ("add",),
    "swish": ("hswish", "mul", "add"), "hswish": ("swish", "mul", "add"), "hard_sigmoid": ("hswish", "swish", "add"),
}
_SMALLEST = 1e-6  # ms; a kernel whose roofline is 0 still takes a correction


@dataclass(frozen=True)
class KernelModel:
    """`coefficients` is (kinds, TERMS): ms per call, per million multiply-accumulates, activations, weights."""

    coefficients: np.ndarray
    known: tuple[bool, ...]
    trees: Trees | None = None

    def predict(self, kernels: Kernels) -> np.ndarray:
        """Sum of the kernels of each block in ms, (blocks,), such as (17,)."""
        return kernels.sum(self.predict_kernels(kernels))

    def predict_kernels(self, kernels: Kernels) -> np.ndarray:
        """Latency of each kernel in ms, (kernels,), such as (40,)."""
        kernels = substitute(kernels, self.known)
        base = self.roofline(kernels)
        return base * np.exp(self.trees.predict(_inputs(kernels, base))) if self.trees else base

    def roofline(self, kernels: Kernels) -> np.ndarray:
        """Latency of each kernel in ms without the trees' correction, (kernels,), such as (40,)."""
        return np.maximum((kernels.terms() * self.coefficients[kernels.kind]).sum(1), _SMALLEST)


def substitute(kernels: Kernels, known: tuple[bool, ...]) -> Kernels:
    """`kernels` with each kind that is not `known` replaced by the first of its substitutes that is."""
    names = [name for name, there in zip(KERNEL_KINDS, known, strict=True) if there]
    stands = [i if known[i] else next((KERNEL_KINDS.index(s) for s in SUBSTITUTES[kind] if s in names), i)
              for i, kind in enumerate(KERNEL_KINDS)]
    rows = kernels.rows.copy()
    rows[:, 0] = np.array(stands)[rows[:, 0]]
    return replace(kernels, rows=rows)


def _inputs(kernels: Kernels, base: np.ndarray) -> np.ndarray:
    return np.concatenate([kernels.features(), np.log(base)[:, None]], 1)


def fit_kernel_model(kernels: Kernels, ms: np.ndarray, rounds: int = 0, leaves: int = 31, min_leaf: int = 10,
                     huber: float = 1.0, seed: int = 0) -> KernelModel:
    """Fit to the latencies `ms` (blocks,) of blocks, by squared relative errors.

    With `rounds` 0 there are no trees. Relative errors above `huber` count as `huber` to the trees.
    """
    known = tuple(bool(v) for v in np.bincount(kernels.kind, minlength=len(KERNEL_KINDS)))
    model = KernelModel(_fit_roofline(kernels, ms), known)
    if not rounds:
        return model
    base = model.roofline(kernels)
    objective = _SumObjective(kernels, base, ms, huber)
    trees = fit_trees(_inputs(kernels, base), objective, rounds=rounds, leaves=leaves, rate=0.1, min_leaf=min_leaf,
                      seed=seed)
    return replace(model, trees=trees)


class _SumObjective:
    """Gradient and curvature of the sum of huber(log(sum of kernels / ms)) by the logarithms of the corrections.

    A kernel's curvature is its share of the sum. It is no less than the row sum of the Gauss-Newton matrix, so all
    kernels of a block may step at once.
    """

    def __init__(self, kernels: Kernels, base: np.ndarray, ms: np.ndarray, huber: float):
        from scipy.sparse import csr_array

        self.base, self.ms, self.huber = base, ms, huber
        uses = (np.ones(len(kernels.block)), (kernels.block, kernels.kernel))
        self.sums = csr_array(uses, (kernels.blocks, len(base)))
        self.shares = csr_array(self.sums.T)

    def __call__(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivatives at `scores`, (kernels,) each."""
        times = self.base * np.exp(scores)
        total = self.sums @ times
        error = np.clip(np.log(total / self.ms), -self.huber, self.huber)
        weight = 1 / total
        return (self.shares @ (weight * error)) * times, (self.shares @ weight) * times + 1e-12


def _fit_roofline(kernels: Kernels, ms: np.ndarray) -> np.ndarray:
    """Non-negative least squares on relative errors, by the normal equations: their size is the number of terms."""
    from scipy.optimize import nnls

    rows = kernels.sum(kernels.roofline_columns()) * (1 / ms)[:, None]
    gram, moment = rows.T @ rows, rows.T @ np.ones(len(ms))
    size = np.sqrt(np.diag(gram))
    used = size > 0
    gram, moment = gram[np.ix_(used, used)] / np.outer(size[used], size[used]), moment[used] / size[used]
    values, vectors = np.linalg.eigh(gram)
    root = np.sqrt(np.maximum(values, 1e-12))
    solution = nnls((vectors * root).T, vectors.T @ moment / root)[0]
    coefficients = np.zeros(len(size))
    coefficients[used] = solution / size[used]
    return coefficients.reshape(len(KERNEL_KINDS), TERMS)
