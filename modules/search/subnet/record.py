"""What a subnet search knows: proposed and evaluated subnets, the Pareto front."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modules.search.subnet.window import Latency
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy


@dataclass(frozen=True)
class Proposal:
    """A subnet to evaluate: its latency, MACs and parameters (millions), and the round and limits (ms) it is for."""

    choice: SubnetChoiceConfig
    latency: Latency
    mflops: float
    params: float
    round: int
    limits: tuple[float, ...]

    @property
    def ms(self) -> float:
        """Latency on the first device."""
        return self.latency.ms[0]

    @property
    def cost_order(self) -> tuple:
        """Sorts a generation: images are resized once per resolution, and neighbours take about equally long."""
        return self.choice.resolution, self.mflops, str(self.choice)


@dataclass(frozen=True)
class Evaluated:
    """A proposal with its int8 accuracy."""

    proposal: Proposal
    accuracy: Accuracy

    @property
    def fitness(self) -> tuple[float, float]:
        """Higher is better; of equally accurate subnets the faster one."""
        return self.accuracy.top1, -self.proposal.ms

    def __str__(self) -> str:
        p = self.proposal
        return (f"arch:{p.choice}-acc:{self.accuracy.top1:.2f}-latency:{p.latency}-mflops:{p.mflops:.2f}"
                f"-params:{p.params:.2f}")


def pareto_front(evaluated: Iterable[Evaluated], device: int | None = None) -> list[Evaluated]:
    """Those that no other beats in accuracy or latency without being worse in another of these; fastest first.

    Latencies are those on all devices, or on number `device` alone. Of several with the same accuracy and latencies the
    first stays.
    """
    def latencies(subnet: Evaluated) -> tuple[float, ...]:
        ms = subnet.proposal.latency.ms
        return ms if device is None else ms[device:device + 1]

    def at_least_as_good(a: Evaluated, b: Evaluated) -> bool:
        return a.accuracy.top1 >= b.accuracy.top1 and all(
            x <= y for x, y in zip(latencies(a), latencies(b), strict=True))

    front: list[Evaluated] = []
    for subnet in sorted(evaluated, key=lambda e: (latencies(e), -e.accuracy.top1)):
        # Whatever comes later is slower on the first device, so it pushes nothing out of the front.
        if not any(at_least_as_good(other, subnet) for other in front):
            front.append(subnet)
    return front
