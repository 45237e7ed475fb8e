"""The best subnets of a search, measured on the devices of their limits and ranked anew."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from modules.latency.profile.timer import Timer
from modules.modeling.net_spec import NetSpec
from modules.search.measured import measure_best
from modules.search.subnet.record import Evaluated
from modules.search.subnet.state import SearchState
from modules.search.subnet.window import Window
from modules.search_space.config import SubnetChoiceConfig

Ranking = dict[Window, list[Evaluated]]  # best first


class Measurement:
    """Measures the best subnets of each window until `wanted` of them keep its limits.

    Args:
        timers: for each device, in order.
        wanted: number of subnets of each window that must keep the limits.
        spec: the network of a subnet.
        state: of the search; it keeps measurements, so each subnet is measured once.
    """

    def __init__(self, timers: Sequence[Timer], wanted: int, spec: Callable[[SubnetChoiceConfig], NetSpec],
                 state: SearchState):
        self.timers, self.wanted, self.spec, self.state = timers, wanted, spec, state

    def __call__(self, choice: SubnetChoiceConfig) -> tuple[float, ...]:
        """Latency (ms) of the int8 network on each device."""
        known = self.state.measured
        if choice not in known:
            spec = self.spec(choice)
            known[choice] = tuple(timer(spec) for timer in self.timers)
            self.state.save()
        return known[choice]

    def rank(self, all_within: Ranking, count: int) -> Ranking:
        """A new order of `all_within`, the subnets of each window by accuracy.

        Measured subnets that keep the limits come first; the faster one first if accuracies are equal. Others of the
        best `count` follow, then measured subnets that break the limits. If none keeps the limits, only the latter are
        given.
        """
        ranking: Ranking = {}
        for window, subnets in all_within.items():
            found = measure_best(((s, s.accuracy.top1) for s in subnets), lambda s: s.proposal.latency.ms,
                                 lambda s: self(s.proposal.choice), window.keeps, self.wanted)
            within, beyond = ([m.individual for m in found if m.keeps == keeps] for keeps in (True, False))
            measured = {m.individual.proposal.choice for m in found}
            others = [s for s in subnets if s.proposal.choice not in measured][:max(0, count - len(within))]
            ranking[window] = [*within, *others, *beyond] if within else beyond
        return ranking


def chosen(ranking: Ranking, measured: Mapping[SubnetChoiceConfig, tuple[float, ...]]) -> dict[Window, Evaluated]:
    """The first subnet of each window; a window whose measured subnets all break its limits has none."""
    return {window: subnets[0] for window, subnets in ranking.items()
            if subnets[0].proposal.choice not in measured or window.keeps(measured[subnets[0].proposal.choice])}
