"""Training-free scores of the subnets of a space, in a search of subnets."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from modules.modeling.net_spec import resolve
from modules.search.subnet.fitness import Fitness
from modules.search.subnet.settings import SearchSettings
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.evaluation import Accuracy
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.scoring import check_proxy, scores, seed_of

BATCH = 16       # images of a score
_WORST = -1e30  # in place of a score that is not finite


class SubnetScores:
    """The score of a subnet without shortcuts; each subnet is scored once, with a seed that follows from its name."""

    def __init__(self, space: SupernetConfig, num_classes: int, proxy: str, batch: int, seed: int):
        self.space, self.num_classes, self.batch, self.seed = space, num_classes, batch, seed
        self.proxy = check_proxy(proxy)
        self._known: dict[SubnetChoiceConfig, float] = {}

    def __call__(self, choice: SubnetChoiceConfig) -> float:
        """The score; higher is better."""
        if choice not in self._known:
            spec = plain_view(resolve(self.space, choice, self.num_classes))
            value = scores(spec, self.proxy, self.batch, 1, seed_of(str(choice), self.seed))[0]
            self._known[choice] = value if math.isfinite(value) else _WORST
        return self._known[choice]

    def evaluate(self, choices: Sequence[SubnetChoiceConfig], test: bool = False) -> Iterator[Accuracy]:
        """The scores as the fitness of a search: each takes the place of the accuracy, with no images."""
        for choice in choices:
            yield Accuracy(self(choice), 0.0, 0.0, 0)


def score_fitness(space: SupernetConfig, settings: SearchSettings) -> Fitness:
    """The training-free score of `settings` as the fitness of a search, without checkpoint and images."""
    classes, resolutions = settings.num_classes, settings.resolutions or space.space.resolutions
    found = SubnetScores(space, classes, settings.fitness, BATCH, settings.seed)
    note = f"fitness: score {found.proxy}; it stands in the place of the accuracy (acc, acc1) in log and tables"
    return Fitness(SubnetSpace(space, resolutions), classes, found.evaluate,
                   {"supernet": str(space), "resolutions": list(resolutions), "num_classes": classes}, [note],
                   tested=False, label=f"score {found.proxy}")
