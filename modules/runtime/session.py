"""The session of every engine, an opened model file: prediction, timing and peak memory."""
from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from modules.runtime import memory
from modules.runtime.metadata import Metadata, model_name
from modules.utils.errors import UserError, first_line
from modules.utils.files import fault_of_file


@dataclass(frozen=True)
class Input:
    """The input of a model: (batch, channels, height, width), such as (1, 3, 224, 224); text as batch means any size.

    With `pixels` it takes bytes (batch, height, width, channels).
    """

    name: str
    shape: Sequence[int | str]
    pixels: bool = False


class Session(Protocol):
    """A model that is ready to run, called like a session of onnxruntime.

    `metadata` is the text in the file, by name.
    """

    metadata: Metadata

    def get_inputs(self) -> list[Input]:
        """The one input."""

    def run(self, names, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The output, such as (N, 1000) float32, for the images in `feeds`; `names` is ignored."""

    def feed(self, images: np.ndarray) -> None:
        """Put `images` into the input."""

    def invoke(self) -> None:
        """Run the model on the fed images: the part that is timed."""


def predict(session: Session, images: np.ndarray) -> np.ndarray:
    """The output, such as logits (8, 1000), of float32 images (N, 3, R, R), such as (8, 3, 224, 224)."""
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def predict_logits(session: Session, images: np.ndarray) -> np.ndarray:
    """Logits (N, classes), such as (8, 1000), of float32 images (N, 3, R, R), such as (8, 3, 224, 224).

    Raises:
        UserError: the output of the model has another shape, or holds integers.
    """
    logits = predict(session, images)
    if np.ndim(logits) != 2 or len(logits) != len(images):
        raise UserError(f"{model_name(session.metadata)} gives {list(np.shape(logits))} for {len(images)} images; "
                        "expected logits (images, classes)")
    if np.asarray(logits).dtype.kind != "f":
        raise UserError(f"{model_name(session.metadata)} gives {np.asarray(logits).dtype}; expected logits in floats")
    return logits


def check_finite(logits: np.ndarray, where: str) -> None:
    """UserError that names the model, `where`, if logits (N, classes), such as (8, 1000), are NaN or infinite."""
    bad = int((~np.isfinite(logits)).any(1).sum())
    if bad:
        raise UserError(f"{where} is not finite: logits of {bad} of {len(logits)} images are NaN or infinite; it has "
                        "no accuracy")


def time_interleaved(sessions: Mapping[Hashable, Session], runs: int = 50, warmup: int = 10,
                     clock: Callable[[], float] = time.perf_counter) -> dict[Hashable, np.ndarray]:
    """Latencies in milliseconds of several sessions on one random image each, measured in turns; (runs,) each, such as
    (50,).

    Turns spread disturbances over all sessions: their ratios hold on a noisy machine too. A session runs twice in its
    turn and the second run is timed: the caches then hold its own data, not that of the others, however many there are.
    With `time.process_time` as clock, time of other processes on the core does not count. UserError if the size of an
    input is free.
    """
    rng = np.random.default_rng(0)
    for session in sessions.values():
        (source,) = session.get_inputs()
        batch, *sides = source.shape or [None]
        if not sides or not all(isinstance(side, int) for side in sides):
            raise UserError(f"{model_name(session.metadata)} takes {list(source.shape)}; allowed for timing: a fixed "
                            "size")
        shape = [batch if isinstance(batch, int) else 1, *sides]
        session.feed(rng.integers(0, 256, shape, np.uint8) if source.pixels
                     else rng.standard_normal(shape, dtype=np.float32))
    times: dict[Hashable, list[float]] = {name: [] for name in sessions}
    for turn in range(-warmup, runs):
        for name, session in sessions.items():
            session.invoke()
            start = clock()
            session.invoke()
            if turn >= 0:
                times[name].append((clock() - start) * 1e3)
    return {name: np.array(values) for name, values in times.items()}


def summarize(times: np.ndarray) -> tuple[float, float]:
    """Median, and half the distance between the 10th and 90th percentile, of latencies (n,) in milliseconds."""
    low, middle, high = np.percentile(times, (10, 50, 90))
    return float(middle), float((high - low) / 2)


def peak_memory_mb(open_session: Callable[[str, int], Session], package: str, model: str | Path,
                   threads: int = 1) -> float | None:
    """Peak resident memory in MB (10^6 bytes) that opening a model and running it adds to a process; None on systems
    other than Linux. The `package` of the engine is imported before."""
    return memory.peak_memory_mb(_open_and_run, open_session, str(model), threads, modules=(package,))


def _open_and_run(open_session: Callable[[str, int], Session], model: str, threads: int) -> None:
    time_interleaved({"": open_session(model, threads)}, runs=1, warmup=0)


@contextmanager
def opening(model: str | Path | bytes, engine: str, writer: str, *errors: type[Exception]) -> Iterator[None]:
    """UserError if the file `model` is missing (`writer` is the script that writes such files), or if `engine` raises
    one of `errors` within the block."""
    if not isinstance(model, bytes) and (fault := fault_of_file(model)):
        raise UserError(f"model {str(model)!r} {fault}; {writer} writes models")
    try:
        yield
    except errors as error:
        name = "(bytes)" if isinstance(model, bytes) else str(model)
        raise UserError(f"model {name!r} cannot be opened by {engine}: {first_line(error)}") from None
