"""Two models on the same images: is one more accurate, or is it chance?"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest


@dataclass(frozen=True)
class Paired:
    """The images that only one of two models gets right, and the probability that chance divides them so unevenly."""

    only_first: int
    only_second: int
    p: float

    def __str__(self) -> str:
        return f"{self.only_first} images right here only, {self.only_second} there only, p {self.p:.2g}"


def mcnemar(first: np.ndarray, second: np.ndarray) -> Paired:
    """McNemar's test (1947), exact: images that both models get right or wrong say nothing, each other one is a throw
    of a coin.

    Args:
        first, second: whether each image is right, (N,) each and in the same order, such as (5000,).
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    thrown = only_first + only_second
    return Paired(only_first, only_second, binomtest(only_first, thrown).pvalue if thrown else 1.0)
