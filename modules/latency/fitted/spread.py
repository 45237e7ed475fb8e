"""How large the error of a predicted latency is: a scale by trees, then a factor that makes intervals cover what they
promise (split conformal prediction: Lei et al., Distribution-Free Predictive Inference for Regression, 2018)."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.latency.fitted.trees import Trees, fit_trees
from modules.latency.prediction import NORMAL_90

COVERAGE = 0.9
CORRELATION = 0.1  # of the errors of two blocks of one network, where no networks were compared
_FLOOR = 1e-3  # of a relative error, so that its logarithm exists
_FEWEST = 30  # errors from which a quantile may be taken


@dataclass(frozen=True)
class Spread:
    """Relative standard deviations of predictions: `factors[level]` times the exponential of what `trees` say.

    `level` is that of `Domain.levels`; `correlation` is that of the errors of two blocks of one network. `least` is the
    smallest deviation of each type, where more is known than what cross-validation shows (none: 0).
    """

    trees: Trees
    factors: tuple[float, ...]
    correlation: float = CORRELATION
    least: tuple[float, ...] = ()

    def predict(self, features: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """(rows,) relative standard deviations; the first column of `features` is the number of the type, or -1."""
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


Held = tuple[np.ndarray, np.ndarray]  # part that was left out of the fit, and the error without it; (rows,) each


def fit_spread(features: np.ndarray, errors: Held, others: tuple[Held, ...],
               representative: np.ndarray | None = None) -> Spread:
    """Fit to errors (logarithm of true over predicted) of predictions that were made without the row.

    Args:
        features: (rows, columns).
        errors: without random parts. The factor is found on scales fitted without the row's part.
        others: the same for each further level, nan in rows that do not tell. Errors of one part are much alike, so
            the factor is that of the worst part; it is no smaller than that of the level before.
        representative: (rows,) bool: drawn as what is to be predicted, so that the factor of `errors` is found on them;
            on all where there are too few, or None.
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
    """By which scales have to be multiplied to cover; 0 where fewer than `least` of `ratios` are known."""
    size = np.abs(ratios[np.isfinite(ratios)])
    if len(size) < least:
        return 0.0
    return float(np.quantile(size, min(1.0, COVERAGE * (1 + 1 / len(size))))) / NORMAL_90


def _fit(features: np.ndarray, target: np.ndarray) -> Trees:
    leaf = max(10, len(target) // 100)
    return fit_trees(features, target, rounds=60, leaves=15, rate=0.1, min_leaf=leaf, seed=0)
