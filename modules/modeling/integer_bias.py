"""What an integer engine makes of a bias: a whole number of steps of input times weight.

Rounding activations makes a network chaotic: a thousandth of a step before one layer's rounding is a whole step for
some of its results, and after a few layers as much noise as all rounding together. So where a network under placement
"engine" is evaluated, its biases are the engine's, too (batch norm folded in, as Jacob et al., 2018).
"""
from __future__ import annotations

import torch

from modules.modeling.codes import is_dead
from modules.modeling.placement import HARD_SIGMOID_SHIFT


def fold_norm(norm, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and bias (float64, one for each of the first `channels`) that stand for a batch norm in eval mode."""
    gamma, beta, mean, var = (t[:channels].detach().double()
                              for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    factor = gamma / torch.sqrt(var + norm.eps)
    return factor, beta - mean * factor


def weight_scales(factor: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """(channels,) float32 scales of a layer's weight codes, the batch norm's `factor` (float64) folded in."""
    return (factor.abs() * weight_scale.detach().abs().double()).float()


def rounding_error(bias: torch.Tensor, scales: torch.Tensor, step: torch.Tensor,
                   hard_sigmoid: bool = False) -> torch.Tensor:
    """(channels,) float32: what the engine's bias differs from `bias` by.

    Args:
        bias: (channels,) float64, batch norm folded in.
        scales: (channels,) float32 of the weight codes.
        step: the scale of the input's codes.
        hard_sigmoid: one follows; the engine then makes its shift a part of the bias.
    """
    bias = bias.float()
    moved = (bias + float(HARD_SIGMOID_SHIFT) if hard_sigmoid else bias).double()
    unit = (step.detach().float() * scales).double()
    error = (moved / unit).round() * unit - moved
    return torch.where(is_dead(moved, scales, step.detach()), 0.0, error).float()
