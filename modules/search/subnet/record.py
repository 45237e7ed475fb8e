"""The record of a subnet search: proposed and evaluated subnets, the Pareto front."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from modules.search.pareto import ranks
from modules.search.subnet.window import Latency
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy


@dataclass(frozen=True)
class Proposal:
    """A subnet to evaluate: its latency, MACs and parameters (millions), and its round and limits (ms). `file_mb` and
    `memory_mb` are as in `Footprint`."""

    choice: SubnetChoiceConfig
    latency: Latency
    mflops: float
    params: float
    round: int
    limits: tuple[float, ...]
    file_mb: float
    memory_mb: float

    @property
    def ms(self) -> float:
        """Latency on the first device."""
        return self.latency.ms[0]

    @property
    def cost_order(self) -> tuple:
        """Sort key of a generation: images are resized once per resolution, and neighbours take about equally long."""
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


def costs_of(evaluated: Sequence[Evaluated], device: int | None = None, sizes: Sequence[str] = ()) -> np.ndarray:
    """Costs of each subnet, lower is better; (n, objectives), such as (500, 2).

    The costs are the error, the latency on each device (or on device number `device` alone), and the named `sizes`.
    """
    def latencies(subnet: Evaluated) -> tuple[float, ...]:
        ms = subnet.proposal.latency.ms
        return ms if device is None else ms[device:device + 1]

    return np.array([[-s.accuracy.top1, *latencies(s), *(getattr(s.proposal, name) for name in sizes)]
                     for s in evaluated])


def pareto_front(evaluated: Iterable[Evaluated], device: int | None = None) -> list[Evaluated]:
    """The Pareto front of `subnets`, fastest first: no other subnet is better in accuracy or in a latency without being
    worse in another of these.

    Latencies are those on all devices, or on device number `device` alone. The first of several with the same accuracy
    and latencies stays.
    """
    subnets = list(evaluated)
    costs = costs_of(subnets, device)
    first = {tuple(row): number for number, row in reversed(list(enumerate(costs.tolist())))}
    best = ranks(costs) == 0
    front = [row for row in first if best[first[row]]]
    return [subnets[first[row]] for row in sorted(front, key=lambda row: (*row[1:], row[0]))]
