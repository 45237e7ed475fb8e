"""The methods of every device."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Device(Protocol):
    """Holds models and times them."""

    def describe(self) -> dict:
        """Processor, cores, operating system, version of the runtime."""

    def open(self, name: str, content: bytes) -> None:
        """Open a model under `name`; the one called "reference" takes turns with all others."""

    def close(self, names: Sequence[str]) -> None:
        """Forget models."""

    def time(self, names: Sequence[str], rounds: int) -> dict[str, Times]:
        """Run the models in turns, `rounds` times each."""

    def peak_memory(self, content: bytes) -> float:
        """Peak memory in MB (10^6 bytes) of opening a model and running it."""

    def stop(self) -> None:
        """Release the device."""


@dataclass(frozen=True)
class Times:
    """Latencies in milliseconds of a model (`ms`) and of the reference right before each (`reference_ms`), (runs,)
    each."""

    ms: np.ndarray
    reference_ms: np.ndarray
