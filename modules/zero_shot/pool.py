"""Worker processes that score structures side by side."""
from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class ScorePool:
    """Scores several individuals at once by `score`, on one thread each. Worker processes must be able to import
    `score`. They begin with the individuals of the highest `cost`: the last ones then end at about the same time.

    The scores do not depend on the number of workers: without workers, this process computes on one thread too.
    """

    def __init__(self, score: Callable[[T], float], workers: int = 0, cost: Callable[[T], float] = lambda _: 0.0):
        self.score, self.cost, self.executor = score, cost, None
        if workers:
            self.executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)

    def __call__(self, individuals: Sequence[T]) -> list[float]:
        """The scores, in order."""
        if self.executor:
            order = sorted(range(len(individuals)), key=lambda i: -self.cost(individuals[i]))
            found = self.executor.map(self.score, [individuals[i] for i in order])
            return [score for _, score in sorted(zip(order, found, strict=True))]
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return list(map(self.score, individuals))
        finally:
            torch.set_num_threads(threads)

    def close(self) -> None:
        """End the workers."""
        if self.executor:
            self.executor.shutdown(cancel_futures=True)


def _start() -> None:
    """First work of a worker."""
    import os
    import signal

    import torch

    from modules.utils.dist import compute_in_full_fp32
    from modules.utils.processes import end_with_parent

    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the workers
    torch.set_num_threads(1)
    compute_in_full_fp32()  # as the first process does: scores are the same with any number of workers
