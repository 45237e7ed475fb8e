"""Measurements on a machine with other work: short turns with a reference, and the mean of the fastest runs."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.latency.profile.models import REFERENCE, block_model
from modules.runtime.device import Device, Times
from modules.runtime.runner import REFERENCE as REFERENCE_NAME

FEWEST_ROUNDS, ENOUGH_ROUNDS, MOST_ROUNDS = 4, 16, 128
STABLE = 0.01  # two halves of the rounds that differ by less than this share are enough
SLOWEST = 1.5  # seconds after which no new rounds begin; the last rounds may take as long again


@dataclass(frozen=True)
class Measurement:
    """Times of one model.

    `ms` and `reference_ms` are `typical` latencies of the model and of the reference beside it, `median_ms` the median
    of all runs; `rounds` is the number of rounds.
    """

    ms: float
    reference_ms: float
    median_ms: float
    rounds: int

    @staticmethod
    def of(times: Times) -> Measurement:
        """That of the runs in `times`."""
        return Measurement(typical(times.ms), typical(times.reference_ms), float(np.median(times.ms)), len(times.ms))


def typical(times: Sequence[float]) -> float:
    """Mean of the fastest quarter: the time of a run without disturbance.

    Disturbances only add time. On two cores with other jobs, the medians of networks measured twice were 9% apart,
    these means 2%. On a quiet machine the two differ by a factor near 1.
    """
    times = np.sort(np.asarray(times, dtype=float))
    return float(times[: max(1, len(times) // 4)].mean())


def reference_model(runtime: str) -> bytes:
    """The reference as a file of `runtime`."""
    return block_model(runtime, *REFERENCE)


def open_reference(device: Device, runtime: str) -> None:
    """Open the reference, which all measurements take turns with."""
    device.open(REFERENCE_NAME, reference_model(runtime))


def measure_reference(device: Device) -> float:
    """Time of the reference in ms."""
    return typical(device.time([REFERENCE_NAME], MOST_ROUNDS)[REFERENCE_NAME].ms)


def measure(device: Device, content: bytes) -> Measurement:
    """Time one model, in rounds until its figure settles, or for `SLOWEST` seconds."""
    device.open("model", content)
    start = time.monotonic()
    times = device.time(["model"], FEWEST_ROUNDS)["model"]
    while len(times.ms) < MOST_ROUNDS and not (len(times.ms) >= ENOUGH_ROUNDS and _settled(times)):
        if time.monotonic() - start > SLOWEST:
            break
        times = _join(times, device.time(["model"], len(times.ms))["model"])
    device.close(["model"])
    return Measurement.of(times)


def measure_together(device: Device, names: Sequence[str], passes: int, seconds: float) -> list[dict[str, Measurement]]:
    """Time open models in turns, so that disturbances hit all of them, in `passes` passes; then close them.

    A pass takes about `seconds`; its number of rounds is within the bounds for a single model.
    """
    start = time.monotonic()
    device.time(names, 1)
    rounds = int(np.clip(seconds / (time.monotonic() - start), FEWEST_ROUNDS, MOST_ROUNDS))
    results = [{name: Measurement.of(times) for name, times in device.time(names, rounds).items()}
               for _ in range(passes)]
    device.close(names)
    return results


def at_one_speed(ms: Sequence[float], reference_ms: Sequence[float], usual_ms: float) -> np.ndarray:
    """Latencies (n,), such as (550,), corrected for drift to the speed at which the reference takes `usual_ms`.

    Each of `ms` (n,) is divided by the ratio of its `reference_ms` (n,) to `usual_ms`.
    """
    return np.asarray(ms, dtype=float) * usual_ms / np.asarray(reference_ms, dtype=float)


def usual_reference(rows: Sequence) -> float:
    """The median time (ms) of the reference beside the blocks of a journal: networks, which come later, do not move
    it."""
    return float(np.median([row.reference_ms for row in rows if row.role == "block"]))


def _settled(times: Times) -> bool:
    first, second = (typical(times.ms[i::2]) for i in (0, 1))
    return abs(math.log(first / second)) < STABLE


def _join(a: Times, b: Times) -> Times:
    return Times(np.concatenate([a.ms, b.ms]), np.concatenate([a.reference_ms, b.reference_ms]))
