"""Batch norm of bf16 maps in training on a CPU, by the loops of `norm_loops.py`."""
from __future__ import annotations

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from modules.modeling.ops.compiled import array, compiled

SIDE_BY_SIDE = 512  # values of a row, up to which several pixels make one: short rows take longer
FEWEST = 2**17  # values of a map; torch is as fast with fewer


def looped(x: torch.Tensor) -> bool:
    """Whether `batch_norm` takes `x`: bf16 (N, C, H, W) on a CPU with the channels last, not small, and torch has one
    thread."""
    return (x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.get_num_threads() == 1
            and x.numel() >= FEWEST and x.is_contiguous(memory_format=torch.channels_last)
            and compiled("norm_loops") is not None)


def batch_norm(x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, weight: torch.Tensor,
               bias: torch.Tensor, momentum: float, eps: float) -> torch.Tensor:
    """`F.batch_norm` in training of a map that is `looped`, such as (64, 24, 28, 28); statistics and weights (24,) are
    fp32."""
    return _BatchNorm.apply(x, running_mean, running_var, weight, bias, momentum, eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, running_mean, running_var, weight, bias, momentum, eps):
        loops, rows, count = compiled("norm_loops"), _rows(x), x.numel() // x.shape[1]
        sums = np.zeros((2, rows.shape[1]))
        loops.moments(rows, sums)
        mean, square = _of_channels(sums, x) / count
        var = (square - mean * mean).clip(0)
        for running, value in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
            running.lerp_(torch.from_numpy(value).to(running.dtype), momentum)
        inverse = 1 / np.sqrt(var + eps)
        factor = weight.detach().numpy() * inverse
        out = torch.empty_like(x)
        loops.scale(rows, *_repeated(rows, factor, bias.detach().numpy() - mean * factor), _rows(out))
        ctx.save_for_backward(x, weight)
        ctx.mean, ctx.inverse = mean, inverse
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, u):
        x, weight = ctx.saved_tensors
        loops, mean, inverse, count = compiled("norm_loops"), ctx.mean, ctx.inverse, x.numel() // x.shape[1]
        rows, upstream = _rows(x), _rows(u.contiguous(memory_format=torch.channels_last))
        sums = np.zeros((2, rows.shape[1]))
        loops.gradient_sums(upstream, rows, *_repeated(rows, mean), sums)
        total, product = _of_channels(sums, x)
        dx = None
        if ctx.needs_input_grad[0]:
            # Ioffe and Szegedy, 2015: dx = w / s (u - mean of u - (x - m) / s^2 times the mean of u (x - m)).
            of_u = weight.detach().numpy() * inverse
            of_x = -of_u * inverse * inverse * product / count
            dx = torch.empty_like(x)
            loops.combine(upstream, rows, *_repeated(rows, of_u, of_x, -of_u * total / count - of_x * mean), _rows(dx))
        return dx, None, None, *(torch.from_numpy(v).to(weight.dtype) for v in (product * inverse, total)), None, None


def _rows(x: torch.Tensor) -> np.ndarray:
    """The bits of `x` (N, C, H, W) with the channels last: rows of the channels of a pixel, or of several."""
    channels, pixels, many = x.shape[1], x.numel() // x.shape[1], 1
    while pixels % (2 * many) == 0 and 2 * many * channels <= SIDE_BY_SIDE:
        many *= 2
    return array(x.permute(0, 2, 3, 1).reshape(pixels // many, many * channels))


def _of_channels(sums: np.ndarray, x: torch.Tensor) -> np.ndarray:
    """Sums (2, C) of channels from those of places of a row (2, L)."""
    return sums.reshape(2, -1, x.shape[1]).sum(1)


def _repeated(rows: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Values of channels (C,), each in fp32 for all places of a row (L,)."""
    return [np.tile(value.astype(np.float32), rows.shape[1] // len(value)) for value in values]
