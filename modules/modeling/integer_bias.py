"""The bias of an integer engine: a whole number of steps of input times weight.

Rounding of activations makes a network chaotic. A thousandth of a step before one layer's rounding becomes a whole step
for some results. After a few layers it is as much noise as all rounding together. An evaluation under placement
"engine" therefore uses the engine's biases too (batch norm folded in, as Jacob et al., 2018).
"""
from __future__ import annotations

import torch

from modules.modeling.codes import is_dead
from modules.modeling.placement import HARD_SIGMOID_SHIFT


def fold_norm(norm: torch.nn.BatchNorm2d, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and bias (channels,), float64, of a batch norm in eval mode, for its first `channels` channels, such as
    (64,)."""
    gamma, beta, mean, var = (t[:channels].detach().double()
                              for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    factor = gamma / torch.sqrt(var + norm.eps)
    return factor, beta - mean * factor


def weight_scales(factor: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """Scales (channels,), float32, of a layer's weight codes with the batch norm's `factor` (channels,), float64,
    folded in; for example (64,)."""
    return (factor.abs() * weight_scale.detach().abs().double()).float()


def rounding_error(bias: torch.Tensor, scales: torch.Tensor, step: torch.Tensor,
                   hard_sigmoid: bool = False) -> torch.Tensor:
    """Difference (channels,), float32, of the engine's bias from `bias`. Example: (64,).

    Args:
        bias: (channels,) float64, batch norm folded in.
        scales: (channels,) float32 of the weight codes.
        step: the scale of the input's codes.
        hard_sigmoid: a hard sigmoid follows; its shift is a part of the engine's bias.
    """
    bias = bias.float()
    moved = (bias + float(HARD_SIGMOID_SHIFT) if hard_sigmoid else bias).double()
    unit = (step.detach().float() * scales).double()
    error = (moved / unit).round() * unit - moved
    return torch.where(is_dead(moved, scales, step.detach()), 0.0, error).float()
