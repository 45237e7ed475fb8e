"""What a subnet search knows: limits, evaluated subnets, the Pareto front."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy


@dataclass(frozen=True)
class Window:
    """The latencies (ms) that a limit admits: [limit - delta, limit]."""

    limit: float
    delta: float

    def holds(self, latency: float) -> bool:
        """Whether `latency` is admitted."""
        return self.limit - self.delta <= latency <= self.limit


@dataclass(frozen=True)
class Proposal:
    """A subnet to evaluate: its latency (ms), MACs and parameters (millions), and the round and limit it is for."""

    choice: SubnetChoiceConfig
    latency: float
    mflops: float
    params: float
    round: int
    limit: float

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
        return self.accuracy.top1, -self.proposal.latency

    def __str__(self) -> str:
        p = self.proposal
        return (f"arch:{p.choice}-acc:{self.accuracy.top1:.2f}-latency:{p.latency:.2f}-mflops:{p.mflops:.2f}"
                f"-params:{p.params:.2f}")


def pareto_front(evaluated: Iterable[Evaluated]) -> list[Evaluated]:
    """Those that no other beats in latency or accuracy without being worse in the other; fastest first.

    Of several with the same accuracy and latency the first stays.
    """
    front: list[Evaluated] = []
    for subnet in sorted(evaluated, key=lambda e: (e.proposal.latency, -e.accuracy.top1)):
        if not front or subnet.accuracy.top1 > front[-1].accuracy.top1:
            front.append(subnet)
    return front
