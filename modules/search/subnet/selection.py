"""The choice of parents among evaluated subnets, and of children that are worth an evaluation."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.search.pareto import select
from modules.search.predictor import FEWEST, fit_ensemble
from modules.search.subnet.encoding import encode_subnets
from modules.search.subnet.record import Evaluated, costs_of
from modules.search.subnet.settings import SearchSettings
from modules.search_space.config import SubnetChoiceConfig
from modules.search_space.subnet_space import StageOptions

_OPTIMISM = 1.0  # standard deviations added to a predicted accuracy


def choose_parents(evaluated: Sequence[Evaluated], settings: SearchSettings) -> list[SubnetChoiceConfig]:
    """The parents among `evaluated` (fittest first), best first."""
    count = settings.sizes.parents
    if settings.survival == "pareto" and evaluated:
        costs = costs_of(evaluated, sizes=tuple(settings.size_limits.given))
        evaluated = [evaluated[i] for i in select(costs, count)]
    return [subnet.proposal.choice for subnet in evaluated[:count]]


class Promise:
    """A predictor of the accuracy of subnets.

    Args:
        evaluated: subnets of a space to fit to; the predictor is `ready` if there are enough.
        stages: of that space.
        seed: of the fit.
    """

    def __init__(self, evaluated: Sequence[Evaluated], stages: Sequence[StageOptions], seed: Sequence[int]):
        self.stages, self.ready = stages, len(evaluated) >= FEWEST
        if self.ready:
            self.ensemble = fit_ensemble(encode_subnets([e.proposal.choice for e in evaluated], stages),
                                         np.array([e.accuracy.top1 for e in evaluated]), seed)

    def __call__(self, choices: Sequence[SubnetChoiceConfig]) -> np.ndarray:
        """Upper confidence bound of each accuracy in percent, (n,), such as (200,): mean plus standard deviation of the
        prediction. Uncertain subnets are therefore tried."""
        mean, deviation = self.ensemble.predict(encode_subnets(choices, self.stages))
        return mean + _OPTIMISM * deviation


def most_promising(choices: Sequence[SubnetChoiceConfig], scores: np.ndarray, count: int,
                   costs: np.ndarray | None = None) -> list[SubnetChoiceConfig]:
    """The `count` of `choices` with the highest `scores` (n,), best first; with other `costs` (n, objectives), those
    that survive a non-dominated sorting over both."""
    if costs is None:
        order = np.argsort(-scores, kind="stable")[:count]
    else:
        order = select(np.column_stack([-scores, costs]), count)
    return [choices[i] for i in order]
