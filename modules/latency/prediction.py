"""Latencies with their uncertainty."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.utils.errors import UserError

NORMAL_90 = 1.6448536269514722  # half width, in standard deviations, of the interval that holds 90% of a normal law


@dataclass(frozen=True)
class Prediction:
    """Latencies in ms, the standard deviations of their errors in ms (nan: not known), and a mark for extrapolations.

    Of several blocks or subnets: arrays of equal length.
    """

    ms: np.ndarray
    std: np.ndarray
    extrapolated: np.ndarray

    def upper(self, confidence: float) -> np.ndarray:
        """Upper bounds (n,), such as (1000,), of the latencies in ms: each holds with probability `confidence` if
        errors are normal."""
        from statistics import NormalDist

        return self.ms + NormalDist().inv_cdf(confidence) * self.std

    def text(self, index: int) -> str:
        """Latency number `index` with two decimals, `~` before one that extrapolates."""
        return f"{'~' if self.extrapolated[index] else ''}{self.ms[index]:.2f}"


def join_predictions(parts: Sequence[Prediction]) -> Prediction:
    """Several predictions in sequence: those of 3 and 2 blocks give one of (5,)."""
    return Prediction(*(np.concatenate([getattr(part, name) for part in parts]) for name in
                        ("ms", "std", "extrapolated")))


def check_known_spread(prediction: Prediction, name: str, option: str) -> None:
    """UserError if `option` asks for an uncertainty that platform `name` does not give."""
    if np.isnan(prediction.std).any():
        raise UserError(f"{option}: platform {name} gives no uncertainty; expected a fitted platform")
