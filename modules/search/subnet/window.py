"""Latencies of a subnet on each device, and the window of latencies that a search admits."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """Latency of a subnet in ms on each device: the prediction, and the upper bound that holds with the requested
    confidence (empty without one). `extrapolated`: the subnet lies outside a device's fitted model."""

    ms: tuple[float, ...]
    upper: tuple[float, ...] = ()
    extrapolated: bool = False

    def __str__(self) -> str:
        return ("~" if self.extrapolated else "") + "+".join(f"{value:.2f}" for value in self.ms)


@dataclass(frozen=True)
class Window:
    """Admits latencies of at most `limits` (ms, one for each device) that are within `delta` of at least one of them:
    on one device [limit - delta, limit]. Without limits it admits every latency."""

    limits: tuple[float, ...]
    delta: float

    def holds(self, latency: Latency) -> bool:
        """Whether `latency` is admitted; with a confidence, its upper bounds must be within the limits."""
        if not self.limits:
            return True
        within = zip(latency.upper or latency.ms, self.limits, strict=True)
        near = zip(latency.ms, self.limits, strict=True)
        return all(ms <= limit for ms, limit in within) and any(ms >= limit - self.delta for ms, limit in near)

    def keeps(self, measured: tuple[float, ...]) -> bool:
        """Whether measured latencies (ms, one for each device) are within the limits."""
        return all(ms <= limit for ms, limit in zip(measured, self.limits or measured, strict=True))

    def __str__(self) -> str:
        return "+".join(f"{limit:g}" for limit in self.limits) if self.limits else "any"

    @property
    def words(self) -> str:
        """The limits in words, such as `10+20 ms`."""
        return f"{self} ms" if self.limits else "any latency"
