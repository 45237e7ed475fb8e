"""Subnets as rows of numbers, for a predictor."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.search_space.config import SubnetChoiceConfig
from modules.search_space.subnet_space import StageOptions


def encode_subnets(choices: Sequence[SubnetChoiceConfig], stages: Sequence[StageOptions]) -> np.ndarray:
    """Features of subnets: the resolution; for each stage the depth; for every possible block kernel size, width and
    expand ratio (0 for absent blocks and ratios); and the mean of each of the three over the stage's blocks.

    Shape (subnets, 1 + the sum over the stages of 1 + 3 * (largest depth + 1)).
    """
    return np.array([[choice.resolution, *(value for blocks, options in zip(choice.stages, stages, strict=True)
                                           for value in _stage(blocks, max(options.depths)))] for choice in choices])


def _stage(blocks, most: int) -> list[float]:
    each = np.zeros((most, 3))
    each[:len(blocks)] = [(b.kernel, b.width, b.expand or 0) for b in blocks]
    return [len(blocks), *each.ravel(), *each[:len(blocks)].mean(axis=0)]
