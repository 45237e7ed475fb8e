"""A predictor of fitness with uncertainty: several boosted trees, each fitted to another bootstrap sample."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from modules.latency.fitted.trees import Trees, fit_trees
from modules.utils.errors import UserError

PREDICTORS = ("none", "lightgbm")
FEWEST = 16  # individuals; with fewer nothing is predicted
_MEMBERS = 8
_ROUNDS, _RATE, _LEAVES, _MIN_LEAF = 100, 0.1, 6, 3


def check_predictor(name: str) -> None:
    """UserError if predictor `name` needs a package that is not installed."""
    if name != "none" and find_spec(name) is None:
        raise UserError(f"--predictor {name}: package {name} is not installed (python -m pip install {name}); allowed "
                        "without it: none")


@dataclass(frozen=True)
class Ensemble:
    """Members fitted to different bootstrap samples; their disagreement is the uncertainty."""

    members: Sequence[Trees]

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the members, (rows,) each, such as (200,), for `features` (rows,
        columns)."""
        each = np.stack([member.predict(features) for member in self.members])
        return each.mean(axis=0), each.std(axis=0)


def fit_ensemble(features: np.ndarray, target: np.ndarray, seed: Sequence[int]) -> Ensemble:
    """Fit the members to `features` (rows, columns) and `target` (rows,); the same arguments give the same ensemble."""
    rng, members = np.random.default_rng(seed), []
    for number in range(_MEMBERS):
        picked = rng.integers(len(target), size=len(target))
        members.append(fit_trees(features[picked], target[picked], rounds=_ROUNDS, leaves=_LEAVES, rate=_RATE,
                                 min_leaf=_MIN_LEAF, seed=number))
    return Ensemble(members)
