"""The size of the error of a predicted latency: a scale by trees, times a factor that gives intervals their stated
coverage (split conformal prediction: Lei et al., Distribution-Free Predictive Inference for Regression, 2018)."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.latency.fitted.trees import Trees, fit_trees
from modules.latency.prediction import NORMAL_90

COVERAGE = 0.9
CORRELATION = 0.1  # of the errors of two blocks of one network, if no networks were compared
_FLOOR = 1e-3  # of a relative error, so that its logarithm exists
_FEWEST = 30  # errors that a quantile needs


@dataclass(frozen=True)
class Spread:
    """Relative standard deviations of predictions: `factors[level]` times the exponential of the `trees`' output.

    `level` is that of `Domain.levels`. `correlation` is the correlation between the errors of two blocks of one
    network. `least` is the smallest deviation of each type, for errors that cross-validation does not show (empty: 0).
    """

    trees: Trees
    factors: tuple[float, ...]
    correlation: float = CORRELATION
    least: tuple[float, ...] = ()

    def predict(self, features: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Relative standard deviations (rows,) from `features` (rows, columns), such as (17,) from (17, 37). The first
        column is the number of the type, or -1."""
        deviation = np.exp(self.trees.predict(features)) * np.array(self.factors)[levels]
        if self.least:
            deviation = np.maximum(deviation, np.array([*self.least, 0.0])[features[:, 0].astype(int)])
        return deviation

    def to_dict(self) -> dict:
        """All but the trees."""
        return {"factors": self.factors, "correlation": self.correlation, "least": self.least}

    @staticmethod
    def from_dict(values: dict, trees: Trees) -> Spread:
        """The inverse of `to_dict`."""
        return Spread(trees, tuple(values["factors"]), values["correlation"], tuple(values["least"]))


Held = tuple[np.ndarray, np.ndarray]  # part that was left out of the fit, and the error of that fit; (rows,) each


def fit_spread(features: np.ndarray, errors: Held, others: tuple[Held, ...],
               representative: np.ndarray | None = None) -> Spread:
    """Fit to errors (logarithm of true over predicted) of predictions that were made without the row.

    Args:
        features: (rows, columns).
        errors: without random parts. The factor is found on scales fitted without the row's part.
        others: the same for each further level; nan in rows without an error. Errors of one part are much alike: the
            factor is that of the worst part, and at least that of the level before.
        representative: (rows,) bool: drawn from the same law as the rows to predict. The factor of `errors` is found on
            these, or on all rows if these are too few or None.
    """
    fold, target = errors[0], np.log(np.abs(errors[1]) + _FLOOR)
    scale = np.zeros(len(target))
    for number in np.unique(fold):
        rest = fold != number
        scale[~rest] = np.exp(_fit(features[rest], target[rest]).predict(features[~rest]))
    drawn = slice(None) if representative is None or representative.sum() < _FEWEST else representative
    factors = [_factor((errors[1] / scale)[drawn], least=1)]
    for part, values in others:
        ratios = values / scale
        factors.append(max([factors[-1], *(_factor(ratios[part == number]) for number in np.unique(part))]))
    return Spread(_fit(features, target), tuple(factors))


def _factor(ratios: np.ndarray, least: int = _FEWEST) -> float:
    """The factor that scales need to cover; 0 if fewer than `least` of `ratios` are known."""
    size = np.abs(ratios[np.isfinite(ratios)])
    if len(size) < least:
        return 0.0
    return float(np.quantile(size, min(1.0, COVERAGE * (1 + 1 / len(size))))) / NORMAL_90


def _fit(features: np.ndarray, target: np.ndarray) -> Trees:
    leaf = max(10, len(target) // 100)
    return fit_trees(features, target, rounds=60, leaves=15, rate=0.1, min_leaf=leaf, seed=0)
