"""Arithmetic of integer codes. Training and the engines' files must agree on it to the bit.

The functions take numbers, NumPy arrays and torch tensors. They hold no torch code.
"""
from __future__ import annotations

import numpy as np

ZERO_POINTS = ("integer", "float")  # of activations: moved to a code, or the plain offset, as published
STARTS = ("minmax", "lsq")          # of quantisers: from the range, or from the mean magnitude (Esser et al., 2020)
# A bias must fit int32 at the scale input * weight, with room for the products.
MOST_STEPS = 2**30  # of a bias
LEAST_SCALE = float(np.finfo(np.float32).tiny) * 1e6  # of the weights


def activation_levels(num_bits: int) -> int:
    """The largest code of an unsigned activation, such as 255 for 8 bits."""
    return 2**num_bits - 1


def weight_bounds(num_bits: int, narrow_range: bool = True) -> tuple[int, int]:
    """Smallest and largest code of a weight; the narrow range is symmetric."""
    top = 2 ** (num_bits - 1) - 1
    return (-top if narrow_range else -top - 1), top


def integer_zero_point(scale, beta, levels: int):
    """The code of zero, rounded half to even and held within 0 ... `levels`; a float, of the shape of `scale`.

    For example scale 0.02 and beta -1, both (1,), give 50: value = (code - 50) * 0.02.

    Args:
        scale: float32, the positive step of the codes.
        beta: float32, the value of code 0.
        levels: the largest code.
    """
    return (-beta / scale).round().clip(0, levels)


def is_dead(bias, scales, step):
    """Mask of dead channels: their weights are too small beside their `bias` for an int32 at the scale `step * scales`.

    Their weights become zero, and their scale is chosen for the bias alone.

    Args:
        bias: (channels,), for example (64,), values of float32: as the engine gets them.
        scales: (channels,) float32, the steps of the weights' codes.
        step: float32, a number or (1,): the step of the input's codes.

    Returns:
        (channels,) bool.
    """
    return (abs(bias) > MOST_STEPS * scales * step) | (scales < LEAST_SCALE)
