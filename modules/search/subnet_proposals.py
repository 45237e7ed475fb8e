"""Which subnets a round evaluates: legal, new, and within the latency window of the limit they are for."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import chain, zip_longest

import numpy as np

from modules.latency.platform import Platform
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search.evolution import PATIENCE, History
from modules.search.generations import Breeder, GenerationSizes
from modules.search.subnet_record import Evaluated, Proposal, Window
from modules.search_space.config import SubnetChoiceConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError, check_choice

METHODS = ("evolution", "random")
START_PATIENCE = 10_000  # uniform draws in a row outside a window before it counts as empty, about 10 s


@dataclass(frozen=True)
class SearchSettings:
    """What decides which subnets are evaluated; the defaults are the published ones.

    `limits` and `delta` are in ms. `rounds` follow the start. `max_evaluations` ends the search (0: no bound).
    """

    limits: tuple[float, ...]
    delta: float = 5.0
    method: str = "evolution"
    sizes: GenerationSizes = field(default_factory=GenerationSizes)
    arch_mutate_prob: float = 0.3
    resolution_mutate_prob: float = 0.5
    rounds: int = 20
    max_evaluations: int = 0
    seed: int = 0

    def __post_init__(self):
        check_choice(self.method, METHODS, "method (--method)")
        for limit in self.limits:
            if not 0 < limit < float("inf"):
                raise UserError(f"--latency_constraint {limit:g}; expected more than 0 ms")
        if len(set(self.limits)) < len(self.limits):
            raise UserError(f"--latency_constraint {' '.join(f'{v:g}' for v in self.limits)}: a limit is given twice")
        if not self.delta > 0:
            raise UserError(f"--latency_delta {self.delta:g}; expected more than 0 ms")
        for name in ("arch_mutate_prob", "resolution_mutate_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} {getattr(self, name):g}; expected 0 to 1")
        for flag, value in (("max_time_budget", self.rounds), ("max_evaluations", self.max_evaluations),
                            ("manual_seed", self.seed)):
            if value < 0:
                raise UserError(f"--{flag} {value}; expected at least 0")

    @property
    def identity(self) -> dict:
        """What a continued search must have in common with its beginning: all but the number of rounds."""
        values = asdict(self)
        del values["rounds"]
        return values

    @property
    def windows(self) -> list[Window]:
        """One per limit."""
        return [Window(limit, self.delta) for limit in self.limits]


class _SubnetMoves:
    """`SubnetSpace` with the mutation probabilities of the settings."""

    def __init__(self, subnets: SubnetSpace, settings: SearchSettings):
        self.subnets, self.settings = subnets, settings

    def sample(self, rng) -> SubnetChoiceConfig:
        return self.subnets.sample(rng)

    def mutate(self, individual, rng) -> SubnetChoiceConfig:
        return self.subnets.mutate(individual, rng, self.settings.arch_mutate_prob,
                                   self.settings.resolution_mutate_prob)

    def crossover(self, a, b, rng) -> SubnetChoiceConfig:
        return self.subnets.crossover(a, b, rng)


class Proposer:
    """Proposes generations.

    Each is a function of the settings, the number of the round, the history before it and the platform's latencies, so
    that a search continued from its history proposes what it would have proposed without the interruption.

    Args:
        subnets: the space.
        platform: tells latencies.
        num_classes: of the classifier, part of the latency.
        settings: of the search.
    """

    def __init__(self, subnets: SubnetSpace, platform: Platform, num_classes: int, settings: SearchSettings):
        self.subnets, self.platform, self.num_classes = subnets, platform, num_classes
        self.settings, self.moves = settings, _SubnetMoves(subnets, settings)
        self._latencies: dict[SubnetChoiceConfig, float] = {}

    def latency(self, choice: SubnetChoiceConfig) -> float:
        """Latency of a subnet in ms; each is asked for once."""
        if choice not in self._latencies:
            self._latencies[choice] = self.platform.predict_subnet(self._spec(choice))
        return self._latencies[choice]

    def _spec(self, choice):
        return resolve(self.subnets.config, choice, self.num_classes)

    def propose(self, number: int, history: History[SubnetChoiceConfig, Evaluated]) -> list[Proposal]:
        """Round `number` (0: the start) after `history`, in the order of evaluation; empty when nothing new is found.

        Raises:
            UserError: no subnet is found within one of the windows; the message has the reachable latencies.
        """
        taken: dict[SubnetChoiceConfig, float] = {}
        per_limit = []
        for index, window in enumerate(self.settings.windows):
            # Children depend on seed, round and limit alone, not on how many draws others needed.
            rng = np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=(number, index)))
            breeder = Breeder(self.moves, lambda choice, window=window: choice not in history and choice not in taken
                              and window.holds(self.latency(choice)), rng)
            bred = self._start(breeder, window, taken) if number == 0 else self._next(breeder, window, history)
            taken.update((choice, window.limit) for choice in bred)
            per_limit.append(bred)
        # In turns, so that a bound on the evaluations cuts all limits alike.
        choices = [choice for choice in chain(*zip_longest(*per_limit)) if choice is not None]
        if self.settings.max_evaluations:
            choices = choices[:max(0, self.settings.max_evaluations - len(history))]
        proposals = [Proposal(choice, self.latency(choice), *count_net_flops_and_params(self._spec(choice)), number,
                              taken[choice]) for choice in choices]
        return sorted(proposals, key=lambda proposal: proposal.cost_order)

    def _start(self, breeder: Breeder, window: Window, taken) -> list[SubnetChoiceConfig]:
        there = sum(window.holds(self.latency(choice)) for choice in taken)  # of limits whose windows overlap
        extremes = sorted(self.latency(self.subnets.extreme(pick)) for pick in (min, max))
        # Blocks have to be measured for the draws: where it is all but certain that there is nothing, ask fewer.
        outside = window.limit < extremes[0] or window.limit - window.delta > extremes[1]
        bred = breeder.random(max(0, self.settings.sizes.population_size - there),
                              PATIENCE if outside else START_PATIENCE)
        if not bred and not there:
            low, high = min(self._latencies.values()), max(self._latencies.values())
            middle = np.percentile(list(self._latencies.values()), (5, 95))
            raise UserError(
                f"--latency_constraint {window.limit:g} with --latency_delta {window.delta:g}: no subnet of "
                f"{self.subnets.config} within {window.limit - window.delta:g} to {window.limit:g} ms in "
                f"{len(self._latencies)} draws; reachable: {low:.3f} to {high:.3f} ms, nine in ten of them "
                f"{middle[0]:.3f} to {middle[1]:.3f} ms")
        return bred

    def _next(self, breeder: Breeder, window: Window, history: History) -> list[SubnetChoiceConfig]:
        sizes = self.settings.sizes
        if self.settings.method == "random":
            return breeder.random(sizes.children, START_PATIENCE)
        parents = history.top(sizes.parents, lambda entry: window.holds(entry.result.proposal.latency))
        return breeder.children([entry.individual for entry in parents], sizes) if parents else []
