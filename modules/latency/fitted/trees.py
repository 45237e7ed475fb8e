"""Gradient boosted trees: LightGBM, imported only for a fit or a prediction."""
from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from modules.utils.errors import UserError

Objective = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Trees:
    """Fitted trees. `text` is LightGBM's text form: the same file works with any version and machine. `where` names the
    file for the UserError about damaged text, which the first prediction raises."""

    def __init__(self, text: str, where: str = "trees"):
        self.text, self.where = text, where

    @cached_property
    def _booster(self):
        import lightgbm

        try:
            return lightgbm.Booster(model_str=self.text)
        except lightgbm.basic.LightGBMError as error:
            raise UserError(f"{self.where}: LightGBM cannot read it: {error}") from None

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Raw scores (rows,) of `features` (rows, columns), such as (17,) of (17, 37)."""
        if not len(features):
            return np.zeros(0)
        return self._booster.predict(features, raw_score=True, num_threads=1)


def fit_trees(features: np.ndarray, target: np.ndarray | Objective, *, rounds: int, leaves: int, rate: float,
              min_leaf: int, seed: int, loss: str = "l2", categories: tuple[int, ...] = ()) -> Trees:
    """Boost `rounds` trees; the same arguments give the same trees.

    Args:
        features: (rows, columns) float64.
        target: (rows,) values, or an objective: a function of the scores that returns first and second derivatives.
        rounds, leaves, rate, min_leaf: number of trees, leaves of each, step size, fewest rows of a leaf.
        seed: of the draw of rows and columns for each tree.
        loss: "l2", or "l1" for a target with outliers; unused with an objective.
        categories: columns whose values have no order.
    """
    import lightgbm

    own = callable(target)
    parameters = {"learning_rate": rate, "num_leaves": leaves, "min_data_in_leaf": min_leaf, "feature_fraction": 0.7,
                  "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 1e-3, "min_sum_hessian_in_leaf": 1e-9,
                  "max_bin": 511, "seed": seed, "num_threads": 1, "deterministic": True, "force_row_wise": True,
                  "verbosity": -1, "objective": (lambda scores, _: target(scores)) if own else loss}
    data = lightgbm.Dataset(features, np.zeros(len(features)) if own else target,
                            init_score=np.zeros(len(features)) if own else None, categorical_feature=list(categories),
                            free_raw_data=True)
    return Trees(lightgbm.train(parameters, data, rounds).model_to_string())
