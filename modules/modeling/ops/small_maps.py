"""Convolutions of small feature maps (N, C, H, W) on a CPU, whose libraries are made for large ones.

Two exact reformulations. Most of a kernel lies outside a map that is smaller than it, so only its centre is convolved.
And oneDNN's gradient of a depthwise weight takes 15 to 80 ms where a map has 4 to 16 pixels; a sum of products per
position of the kernel takes 0.5 to 5 ms.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

SMALL = 4  # pixels along the longer side of the output: up to here, sums of products are faster than oneDNN


def centre(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The part of `weight` (O, I, k, k) that touches a map of `height` x `width` pixels padded by k // 2 zeros: at most
    2 size - 1 positions along the longer side."""
    kernel, reach = weight.shape[-1], 2 * max(height, width) - 1
    cut = (kernel - reach) // 2
    return weight[:, :, cut:kernel - cut, cut:kernel - cut] if cut > 0 else weight


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: tuple[int, int],
             groups: int) -> torch.Tensor:
    """`F.conv2d` of a square odd kernel k with padding k // 2."""
    weight = centre(weight, *x.shape[-2:])
    pad = weight.shape[-1] // 2
    small = -(-x.shape[-2] // stride[0]) <= SMALL and -(-x.shape[-1] // stride[1]) <= SMALL
    if groups == 1 or bias is not None or not small or not weight.requires_grad or x.device.type != "cpu":
        return F.conv2d(x, weight, bias, stride, pad, 1, groups)
    if torch.is_autocast_enabled("cpu"):
        x, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (x, weight))
    return _Depthwise.apply(x, weight, stride)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution without bias."""

    @staticmethod
    def forward(ctx, x, weight, stride):
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, u):
        x, weight = ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            pad = [weight.shape[-1] // 2] * 2
            dx = torch.ops.aten.convolution_backward(u, x, weight, None, ctx.stride, pad, [1, 1], False, [0, 0],
                                                     x.shape[1], [True, False, False])[0]
        return dx, depthwise_weight_gradient(x, u, weight, ctx.stride), None


def depthwise_weight_gradient(x: torch.Tensor, u: torch.Tensor, weight: torch.Tensor,
                              stride: tuple[int, int]) -> torch.Tensor:
    """Gradient of a depthwise weight (C, 1, k, k) with padding k // 2, from the input (N, C, H, W) and the upstream
    gradient (N, C, H', W'): at (i, j) the sum over images and pixels of u[h, w] x[h stride + i - pad, ...]."""
    pad, gradient = weight.shape[-1] // 2, torch.zeros_like(weight)
    precise = torch.promote_types(u.dtype, torch.float32)
    for i in range(weight.shape[-2]):
        rows, taken_rows = _overlap(i - pad, x.shape[-2], u.shape[-2], stride[0])
        for j in range(weight.shape[-1]):
            columns, taken_columns = _overlap(j - pad, x.shape[-1], u.shape[-1], stride[1])
            products = x[:, :, taken_rows, taken_columns] * u[:, :, rows, columns]
            gradient[:, 0, i, j] = products.sum((0, 2, 3), dtype=precise)
    return gradient


def _overlap(offset: int, size: int, out: int, stride: int) -> tuple[slice, slice]:
    """The outputs h of `out` for which h stride + offset lies in the input of `size`, and the inputs they meet."""
    first, last = max(0, -(offset // stride)), min(out - 1, (size - 1 - offset) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + offset, last * stride + offset + 1, stride)
