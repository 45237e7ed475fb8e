"""How large the error of a predicted latency is: a scale by trees, then a factor that makes intervals cover what they
promise (split conformal prediction: Lei et al., Distribution-Free Predictive Inference for Regression, 2018)."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.latency.platform import NORMAL_90
from modules.latency.trees import Trees, fit_trees

COVERAGE = 0.9
CORRELATION = 0.1  # of the errors of two blocks of one network, where no networks were compared
_FLOOR = 1e-3  # of a relative error, so that its logarithm exists
_FEWEST = 30  # errors from which a quantile may be taken


@dataclass(frozen=True)
class Spread:
    """Relative standard deviations of predictions: `factors[level]` times the exponential of what `trees` say.

    `level` is that of `Domain.levels`; `correlation` is that of the errors of two blocks of one network.
    """

    trees: Trees
    factors: tuple[float, ...]
    correlation: float = CORRELATION

    def predict(self, features: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """(rows,) relative standard deviations."""
        return np.exp(self.trees.predict(features)) * np.array(self.factors)[levels]

    def to_dict(self) -> dict:
        """All but the trees."""
        return {"factors": self.factors, "correlation": self.correlation}

    @staticmethod
    def from_dict(values: dict, trees: Trees) -> Spread:
        """The inverse of `to_dict`."""
        return Spread(trees, tuple(values["factors"]), values["correlation"])


def fit_spread(features: np.ndarray, errors: np.ndarray, fold: np.ndarray,
               other_errors: tuple[np.ndarray, ...]) -> Spread:
    """Fit to errors of predictions that were made without the row.

    Args:
        features: (rows, columns).
        errors: (rows,) logarithm of true over predicted.
        fold: (rows,) number of the part a row belongs to; the factor is found on scales fitted without the row's part.
        other_errors: the same as `errors` for each further level, nan in rows that do not tell. A level of which few
            rows tell has the factor of the one before, and none a smaller one.
    """
    target = np.log(np.abs(errors) + _FLOOR)
    scale = np.zeros(len(target))
    for number in np.unique(fold):
        rest = fold != number
        scale[~rest] = np.exp(_fit(features[rest], target[rest]).predict(features[~rest]))
    factors: list[float] = []
    for values in (errors, *other_errors):
        ratios = np.abs(values) / scale
        ratios = ratios[np.isfinite(ratios)]
        rank = min(1.0, COVERAGE * (1 + 1 / max(1, len(ratios))))
        factor = float(np.quantile(ratios, rank)) / NORMAL_90 if len(ratios) >= _FEWEST else 0.0
        factors.append(max([factor, *factors]))
    return Spread(_fit(features, target), tuple(factors))


def _fit(features: np.ndarray, target: np.ndarray) -> Trees:
    leaf = max(10, len(target) // 100)
    return fit_trees(features, target, rounds=60, leaves=15, rate=0.1, min_leaf=leaf, seed=0)
