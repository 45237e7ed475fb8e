"""Fake quantisation with a range and a number of steps for each channel, as one autograd function.

With z = round(low s) the quantised value is (clip(round(x s) - z, 0, top) + z) / s. Rounding passes gradients straight
through. For an upstream gradient u, sums over the elements of a channel:

              dx   dlow      ds                        dtop
    inside    u              sum u (x - result) / s
    below     0    sum u     sum u (low - result) / s
    above     0    sum u     sum u (low - result) / s  sum u / s

All results outside are z / s or (z + top) / s. So the sums of u and of u (result - z / s) outside give all of these.
"""
from __future__ import annotations

import torch


def fake_quantize(x: torch.Tensor, low: torch.Tensor, scale: torch.Tensor, top: torch.Tensor,
                  axis: int | None) -> torch.Tensor:
    """`x` on the grid of its channels, such as (8, 24, 56, 56) with 24 channels on axis 1.

    Args:
        low, scale, top: (channels,) each: the low end, steps for a unit, and the number of steps.
        axis: of the channels, 0 or 1; None: one grid, (1,) each.
    """
    return _FakeQuantize.apply(x, low, scale, top, axis)


def _by_channel(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """(outer, channels, inner), in one piece of memory."""
    outer = x.shape[0] if x.ndim > 1 and axis != 0 else 1
    return x.reshape(outer, 1 if axis is None else x.shape[axis], -1)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, low, scale, top, axis):
        values, zero, s = _by_channel(x, axis).contiguous(), torch.round(low * scale).view(-1, 1), scale.view(-1, 1)
        codes = (values * s).round_()
        result = torch.maximum(codes, zero)
        torch.minimum(result, zero + top.view(-1, 1), out=result)
        inside = codes.eq_(result)  # as 0 and 1 in memory that is there: a pass over used memory is the cheapest
        result.div_(s)
        ctx.save_for_backward(values, low, scale, top, result, inside)
        ctx.axis, ctx.shape = axis, x.shape
        return result.view(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        values, low, scale, top, result, inside = ctx.saved_tensors
        gradient = _by_channel(gradient, ctx.axis).contiguous()
        dx = gradient * inside
        outside = gradient - dx
        lowest = torch.round(low * scale) / scale
        clipped, above = _channel_sums(outside, result, lowest)
        error = torch.sub(values, result, out=outside)
        _, inner = _channel_sums(dx, error, torch.zeros_like(lowest))
        return dx.view(ctx.shape), clipped, (inner + (low - lowest) * clipped - above) / scale, above / top, None


def _channel_sums(u: torch.Tensor, x: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(channels,) each: the sums of u and of u (x - centre), for `u` and `x` (outer, channels, inner).

    They are the gradients of the shift and of the factor of a batch norm with the mean `centre` and the variance 1. Its
    kernel reads both tensors once. It adds up in double precision on a CPU, in float32 on a GPU.
    """
    ones = torch.ones_like(centre)
    _, dot, total = torch.ops.aten.native_batch_norm_backward(
        u, x, ones, centre, ones, centre, ones, False, 0.0, [False, True, True])
    return total, dot
