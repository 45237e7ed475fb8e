"""The subnets that a round evaluates: legal, new, and within the latency window of their limit."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain, zip_longest

import numpy as np

from modules.latency.platform import Platform, predict_subnets
from modules.latency.prediction import check_known_spread
from modules.modeling.net_spec import NetSpec, resolve
from modules.search.evolution import PATIENCE, History
from modules.search.footprint import Footprint, net_footprint
from modules.search.generations import Breeder
from modules.search.predictor import check_predictor
from modules.search.subnet.record import Evaluated, Proposal
from modules.search.subnet.selection import Promise, choose_parents, most_promising
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

    A generation depends only on the settings, the number of the round, the history before it and the platform's
    latencies. A search continued from its history therefore proposes the same subnets as an uninterrupted one.

    Args:
        subnets: the space.
        platforms: of the latencies, by name; as many as the devices in the settings.
        num_classes: of the classifier, part of the latency.
        settings: of the search.
        score: of a subnet, for the prefilter of the settings; `filtered` counts the subnets that it kept out.
    """

    def __init__(self, subnets: SubnetSpace, platforms: Mapping[str, Platform], num_classes: int,
                 settings: SearchSettings, score: Callable[[SubnetChoiceConfig], float] | None = None):
        self.subnets, self.platforms, self.num_classes = subnets, platforms, num_classes
        self.settings, self.moves = settings, _SubnetMoves(subnets, settings)
        check_predictor(settings.predictor)
        self.score, self.filtered = score, 0
        self._latencies: dict[SubnetChoiceConfig, Latency] = {}
        self._footprints: dict[SubnetChoiceConfig, Footprint] = {}

    def latency(self, choice: SubnetChoiceConfig) -> Latency:
        """Latency of a subnet; each is predicted once."""
        if choice not in self._latencies:
            self._latencies[choice] = self._predict(choice)
        return self._latencies[choice]

    def footprint(self, choice: SubnetChoiceConfig) -> Footprint:
        """The footprint of a subnet; each is counted once."""
        if choice not in self._footprints:
            self._footprints[choice] = net_footprint(self.spec(choice))
        return self._footprints[choice]

    def keeps(self, choice: SubnetChoiceConfig, window: Window) -> bool:
        """Whether a subnet is within `window` and within the limits of size."""
        limits = self.settings.size_limits
        return bool(not limits or limits.keep(self.footprint(choice))) and window.holds(self.latency(choice))

    def _predict(self, choice: SubnetChoiceConfig) -> Latency:
        spec, confidence, ms, upper, extrapolated = self.spec(choice), self.settings.confidence, [], [], False
        for name, platform in self.platforms.items():
            prediction = predict_subnets(platform, [spec])
            ms.append(float(prediction.ms[0]))
            extrapolated |= bool(prediction.extrapolated[0])
            if confidence:
                check_known_spread(prediction, name, f"--latency_confidence {confidence:g}")
                upper.append(float(prediction.upper(confidence)[0]))
        return Latency(tuple(ms), tuple(upper), extrapolated)

    def spec(self, choice: SubnetChoiceConfig) -> NetSpec:
        """The network of a subnet."""
        return resolve(self.subnets.config, choice, self.num_classes)

    def propose(self, number: int, history: History[SubnetChoiceConfig, Evaluated]) -> list[Proposal]:
        """Round `number` (0: the start) after `history`, in the order of evaluation; empty if nothing new is found.

        Raises:
            UserError: no subnet is found within one of the windows; the message has the reachable latencies.
        """
        taken: dict[SubnetChoiceConfig, tuple[float, ...]] = {}
        per_limit, promise = [], self._promise(number, history)
        windows = sorted(self.settings.windows, key=lambda window: window.limits)  # the order given changes nothing
        # Highest limit first: where windows overlap, its subnets count for a lower one, which has none above itself.
        for index, window in reversed(list(enumerate(windows))):
            # Children depend on seed, round and limit alone, not on the number of draws for others.
            rng = np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=(number, index)))
            breeder = Breeder(self.moves, lambda choice, window=window: choice not in history and choice not in taken
                              and self.keeps(choice, window), rng)
            bred = self._start(breeder, window, taken) if number == 0 else self._next(breeder, window, history, promise)
            bred = self._filtered(bred)
            taken.update((choice, window.limits) for choice in bred)
            per_limit.append(bred)
        # In turns: a bound on the evaluations then cuts all limits alike.
        choices = [choice for choice in chain(*zip_longest(*reversed(per_limit))) if choice is not None]
        if self.settings.max_evaluations:
            choices = choices[:max(0, self.settings.max_evaluations - len(history))]
        return sorted((self._proposal(choice, number, taken[choice]) for choice in choices),
                      key=lambda proposal: proposal.cost_order)

    def _proposal(self, choice: SubnetChoiceConfig, number: int, limits: tuple[float, ...]) -> Proposal:
        size = self.footprint(choice)
        return Proposal(choice, self.latency(choice), float(size.mflops), float(size.params), number, limits,
                        float(size.file_mb), float(size.memory_mb))

    def _filtered(self, bred: list[SubnetChoiceConfig]) -> list[SubnetChoiceConfig]:
        """The share with the best scores, at least one; all without a prefilter."""
        if not self.score or not bred:
            return bred
        kept = set(sorted(bred, key=self.score, reverse=True)[:math.ceil(self.settings.prefilter_keep * len(bred))])
        self.filtered += len(bred) - len(kept)
        return [choice for choice in bred if choice in kept]

    def _start(self, breeder: Breeder, window: Window, taken) -> list[SubnetChoiceConfig]:
        there = sum(self.keeps(choice, window) for choice in taken)  # of limits whose windows overlap
        if self.settings.method == "evolution":  # the sandwich rule trains both ends in every step
            breeder.given([self.subnets.extreme(end) for end in (min, max)][: self.settings.sizes.population_size])
        # Draws need measured blocks: take fewer if it is almost certain that none is within.
        bred = breeder.random(max(0, self.settings.sizes.population_size - there),
                              PATIENCE if self._beyond(window) else START_PATIENCE)
        if not bred and not there:  # a limit just above the smallest subnet, which random draws hardly ever meet
            bred = breeder.given([self.subnets.extreme(min)])
        if not bred and not there:
            raise UserError(self._refusal(window))
        return bred

    def _refusal(self, window: Window) -> str:
        limits = self.settings.size_limits
        within = sum(limits.keep(size) for size in self._footprints.values())
        if limits and not (within and window.limits):
            smallest = min(self._footprints.values(), key=lambda size: size.params)
            return (f"{limits}: {within or 'none'} of {len(self._footprints)} subnets of {self.subnets.config} is "
                    f"within; that of the fewest parameters has {limits.describe(smallest)}")
        return (f"--latency_constraint {' '.join(f'{v:g}' for v in window.limits)} with --latency_delta "
                f"{window.delta:g}{f' and {limits}' if limits else ''}: no subnet of {self.subnets.config} within "
                f"{self._reach(window)}")

    def _beyond(self, window: Window) -> bool:
        """Whether a limit is below the smallest subnet, or all are more than delta above the largest."""
        limits, smallest = self.settings.size_limits, self.subnets.extreme(min)
        if limits and not limits.keep(self.footprint(smallest)):
            return True
        if not window.limits:
            return False
        low, high = (self.latency(self.subnets.extreme(pick)).ms for pick in (min, max))
        return any(limit < min(ends) for limit, *ends in zip(window.limits, low, high, strict=True)) or all(
            limit - window.delta > max(ends) for limit, *ends in zip(window.limits, low, high, strict=True))

    def _reach(self, window: Window) -> str:
        """The limits and the drawn latencies, on each device."""
        parts = []
        for i, (name, limit) in enumerate(zip(self.platforms, window.limits, strict=True)):
            drawn = [latency.ms[i] for latency in self._latencies.values()]
            middle = np.percentile(drawn, (5, 95))
            parts.append(f"{limit - window.delta:g} to {limit:g} ms on {name} in {len(drawn)} draws; reachable: "
                         f"{min(drawn):.3f} to {max(drawn):.3f} ms, nine in ten of them {middle[0]:.3f} to "
                         f"{middle[1]:.3f} ms")
        return "; ".join(parts)

    def _next(self, breeder: Breeder, window: Window, history: History, promise: Promise) -> list[SubnetChoiceConfig]:
        sizes, pool = self.settings.sizes, self.settings.predictor_pool if promise.ready else 1
        bred, more = [], replace(sizes, mutation_size=pool * sizes.mutation_size,
                                 crossover_size=pool * sizes.crossover_size)
        within = [e.result for e in history.top(len(history), lambda e: window.holds(e.result.proposal.latency))]
        if self.settings.method == "random":
            bred = breeder.random(more.children, START_PATIENCE)
        elif within:
            bred = breeder.children(choose_parents(within, self.settings), more)
        if not promise.ready or not bred:
            return bred
        return most_promising(bred, promise(bred), sizes.children, self._costs(bred))

    def _costs(self, choices: list[SubnetChoiceConfig]) -> np.ndarray | None:
        """The costs for a Pareto selection; None if the most accurate survive."""
        if self.settings.survival != "pareto":
            return None
        limited = self.settings.size_limits.given
        return np.array([[*self.latency(c).ms, *(getattr(self.footprint(c), name) for name in limited)]
                         for c in choices])

    def _promise(self, number: int, history: History) -> Promise:
        known = [entry.result for entry in history.entries] if self.settings.predictor != "none" else []
        return Promise(known, self.subnets.stages, (self.settings.seed, number))
