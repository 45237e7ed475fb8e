"""Which subnets a round evaluates: legal, new, and within the latency window of the limit they are for."""
from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest

import numpy as np

from modules.latency.platform import Platform, predict_subnets
from modules.latency.prediction import check_known_spread
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search.evolution import PATIENCE, History
from modules.search.generations import Breeder
from modules.search.subnet.record import Evaluated, Proposal
from modules.search.subnet.settings import SearchSettings
from modules.search.subnet.window import Latency, Window
from modules.search_space.config import SubnetChoiceConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError

START_PATIENCE = 10_000  # uniform draws in a row outside a window before it counts as empty, about 10 s


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
        platforms: tell latencies, by name; as many as the settings say devices.
        num_classes: of the classifier, part of the latency.
        settings: of the search.
    """

    def __init__(self, subnets: SubnetSpace, platforms: Mapping[str, Platform], num_classes: int,
                 settings: SearchSettings):
        self.subnets, self.platforms, self.num_classes = subnets, platforms, num_classes
        self.settings, self.moves = settings, _SubnetMoves(subnets, settings)
        self._latencies: dict[SubnetChoiceConfig, Latency] = {}

    def latency(self, choice: SubnetChoiceConfig) -> Latency:
        """Latency of a subnet; each is asked for once."""
        if choice not in self._latencies:
            self._latencies[choice] = self._predict(choice)
        return self._latencies[choice]

    def _predict(self, choice: SubnetChoiceConfig) -> Latency:
        spec, confidence, ms, upper, extrapolated = self._spec(choice), self.settings.confidence, [], [], False
        for name, platform in self.platforms.items():
            prediction = predict_subnets(platform, [spec])
            ms.append(float(prediction.ms[0]))
            extrapolated |= bool(prediction.extrapolated[0])
            if confidence:
                check_known_spread(prediction, name, f"--latency_confidence {confidence:g}")
                upper.append(float(prediction.upper(confidence)[0]))
        return Latency(tuple(ms), tuple(upper), extrapolated)

    def _spec(self, choice):
        return resolve(self.subnets.config, choice, self.num_classes)

    def propose(self, number: int, history: History[SubnetChoiceConfig, Evaluated]) -> list[Proposal]:
        """Round `number` (0: the start) after `history`, in the order of evaluation; empty when nothing new is found.

        Raises:
            UserError: no subnet is found within one of the windows; the message has the reachable latencies.
        """
        taken: dict[SubnetChoiceConfig, tuple[float, ...]] = {}
        per_limit = []
        for index, window in enumerate(self.settings.windows):
            # Children depend on seed, round and limit alone, not on how many draws others needed.
            rng = np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=(number, index)))
            breeder = Breeder(self.moves, lambda choice, window=window: choice not in history and choice not in taken
                              and window.holds(self.latency(choice)), rng)
            bred = self._start(breeder, window, taken) if number == 0 else self._next(breeder, window, history)
            taken.update((choice, window.limits) for choice in bred)
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
        if self.settings.method == "evolution":  # the sandwich rule trains both ends in every step: they are good
            breeder.given([self.subnets.extreme(end) for end in (min, max)][: self.settings.sizes.population_size])
        # Blocks have to be measured for the draws: where it is all but certain that there is nothing, ask fewer.
        bred = breeder.random(max(0, self.settings.sizes.population_size - there),
                              PATIENCE if self._beyond(window) else START_PATIENCE)
        if not bred and not there:
            raise UserError(
                f"--latency_constraint {' '.join(f'{v:g}' for v in window.limits)} with --latency_delta "
                f"{window.delta:g}: no subnet of {self.subnets.config} within {self._reach(window)}")
        return bred

    def _beyond(self, window: Window) -> bool:
        """Whether a limit is below the smallest subnet, or every one more than delta above the largest."""
        low, high = (self.latency(self.subnets.extreme(pick)).ms for pick in (min, max))
        return any(limit < min(ends) for limit, *ends in zip(window.limits, low, high, strict=True)) or all(
            limit - window.delta > max(ends) for limit, *ends in zip(window.limits, low, high, strict=True))

    def _reach(self, window: Window) -> str:
        """What was asked for and what was drawn, on each device."""
        parts = []
        for i, (name, limit) in enumerate(zip(self.platforms, window.limits, strict=True)):
            drawn = [latency.ms[i] for latency in self._latencies.values()]
            middle = np.percentile(drawn, (5, 95))
            parts.append(f"{limit - window.delta:g} to {limit:g} ms on {name} in {len(drawn)} draws; reachable: "
                         f"{min(drawn):.3f} to {max(drawn):.3f} ms, nine in ten of them {middle[0]:.3f} to "
                         f"{middle[1]:.3f} ms")
        return "; ".join(parts)

    def _next(self, breeder: Breeder, window: Window, history: History) -> list[SubnetChoiceConfig]:
        sizes = self.settings.sizes
        if self.settings.method == "random":
            return breeder.random(sizes.children, START_PATIENCE)
        parents = history.top(sizes.parents, lambda entry: window.holds(entry.result.proposal.latency))
        return breeder.children([entry.individual for entry in parents], sizes) if parents else []
