"""Values that change in training. Learning rates: linear warm-up times a cosine over all iterations, or linear warm-up
and linear decay. Resolutions: small images first."""
from __future__ import annotations

import math
from collections.abc import Sequence

WARMUP_FACTOR = 0.001


def warmup_cosine_lr(iteration: float, *, base_lr: float, iterations: float, warmup_iterations: float,
                     clamp_lr_percent: float = 0.0) -> float:
    """Learning rate at `iteration` (from 0): a cosine (Loshchilov and Hutter, 2017) after a warm-up (Goyal et al.,
    2017). 0.05 at 50 of 100 iterations for a base_lr of 0.1 without warm-up.

    The warm-up factor goes linearly from 0.001 to 1 over `warmup_iterations`. It multiplies base_lr (1 + cos(pi
    iteration / iterations)) / 2. That cosine never falls below `clamp_lr_percent` of `base_lr`.
    """
    warm = 1.0
    if iteration < warmup_iterations:
        a = iteration / warmup_iterations
        warm = WARMUP_FACTOR * (1 - a) + a
    cosine = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
    return base_lr * warm * max(cosine, clamp_lr_percent)


def warmup_linear_lr(iteration: float, *, base_lr: float, iterations: float, warmup_iterations: float) -> float:
    """Learning rate at `iteration` (from 0): linear from 0 to `base_lr` over `warmup_iterations`, then linear to 0."""
    if iteration < warmup_iterations:
        return base_lr * iteration / warmup_iterations
    return base_lr * (iterations - iteration) / (iterations - warmup_iterations)


def resolution_limit(iteration: int, *, iterations: int, limits: Sequence[int]) -> int | None:
    """The most pixels that a side of an image has at `iteration` (from 0), None for any number (progressive resizing,
    as in EfficientNetV2; Tan and Le, 2021).

    There is one more part of `iterations` than `limits`, all of equal length: limits (16, 24) and 90 iterations give 16
    for 0 to 29, 24 for 30 to 59, None for 60 to 89.
    """
    part = iteration * (len(limits) + 1) // iterations
    return limits[part] if part < len(limits) else None
