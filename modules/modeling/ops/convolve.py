"""Convolutions of feature maps (N, C, H, W) on a CPU, without the slow paths of oneDNN. All reformulations are exact.

- Most of a kernel lies outside a map smaller than the kernel: only its centre is convolved.
- The gradient of a depthwise weight takes 15 to 80 ms on a map of 4 to 16 pixels. A sum of products for each position
of the kernel takes 0.5 to 5 ms.
- In bf16 this gradient for a kernel of 5 or 7 takes up to 40 times as long as for 3. It is put together from windows of
3 x 3 positions.
- In bf16 the gradient of a strided depthwise convolution's input takes up to 380 ms. With zeros between the values of
the upstream gradient it is an ordinary convolution by the turned kernel.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from modules.modeling.spec import borders

SMALL = 4  # pixels along the longer side of the output: up to here, sums of products are faster than oneDNN


def centre(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The part of `weight` (O, I, k, k) that touches a map of `height` x `width` pixels padded by k // 2 zeros. It has
    at most 2 size - 1 positions along the longer side: (8, 1, 7, 7) gives (8, 1, 3, 3) for 2 x 2 pixels."""
    kernel, reach = weight.shape[-1], 2 * max(height, width) - 1
    cut = (kernel - reach) // 2
    return weight[:, :, cut:kernel - cut, cut:kernel - cut] if cut > 0 else weight


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: tuple[int, int],
             groups: int) -> torch.Tensor:
    """`F.conv2d` of `x` (N, C, H, W) with a square odd kernel k and padding k // 2: (8, 16, 32, 32) and a weight (24,
    16, 3, 3) at stride 2 give (8, 24, 16, 16)."""
    weight = centre(weight, *x.shape[-2:])
    pad = weight.shape[-1] // 2
    if groups == 1 or bias is not None or not weight.requires_grad or x.device.type != "cpu":
        return F.conv2d(x, weight, bias, stride, pad, 1, groups)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    small = max(-(-x.shape[-2] // stride[0]), -(-x.shape[-1] // stride[1])) <= SMALL
    if small or (dtype == torch.bfloat16 and (pad > 1 or max(stride) > 1)):
        return _Depthwise.apply(x.to(dtype), weight.to(dtype), stride)
    return F.conv2d(x, weight, bias, stride, pad, 1, groups)


def convolve_same(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: tuple[int, int],
                  groups: int) -> torch.Tensor:
    """The same, padded as TensorFlow does (`borders`): where that is less before the map, zeros that make it up to a
    stride more come before it, and the first result goes."""
    kernel = weight.shape[-1]
    missing = [kernel // 2 - borders(size, kernel, step, same=True)[0]
               for size, step in zip(x.shape[-2:], stride, strict=True)]
    top, left = (step - few if few else 0 for few, step in zip(missing, stride, strict=True))
    y = convolve(F.pad(x, (left, 0, top, 0)), weight, bias, stride, groups)
    return y[..., bool(top):, bool(left):]


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
        half, dx = x.dtype == torch.bfloat16, None
        if ctx.needs_input_grad[0]:
            spread = half and max(ctx.stride) > 1
            dx = spread_input_gradient(x, u, weight, ctx.stride) if spread else _gradient(
                x, u, weight, ctx.stride, weight.shape[-1] // 2, of_input=True)
        if max(u.shape[-2:]) <= SMALL:
            return dx, summed_weight_gradient(x, u, weight, ctx.stride), None
        if half and weight.shape[-1] > 3:
            return dx, windowed_weight_gradient(x, u, weight, ctx.stride), None
        return dx, _gradient(x, u, weight, ctx.stride, weight.shape[-1] // 2, of_input=False), None


def _gradient(x, u, weight, stride, pad: int, of_input: bool) -> torch.Tensor:
    """The library's gradient of a depthwise convolution's input or weight."""
    return torch.ops.aten.convolution_backward(u, x, weight, None, stride, [pad, pad], [1, 1], False, [0, 0],
                                               x.shape[1], [of_input, not of_input, False])[0 if of_input else 1]


def spread_input_gradient(x: torch.Tensor, u: torch.Tensor, weight: torch.Tensor,
                          stride: tuple[int, int]) -> torch.Tensor:
    """Gradient of the input `x` (N, C, H, W) of a strided depthwise convolution with padding k // 2, from the upstream
    gradient `u` (N, C, H', W'), such as (8, 32, 28, 28) from (8, 32, 14, 14)."""
    spread = torch.zeros_like(x)
    spread[:, :, ::stride[0], ::stride[1]] = u
    return F.conv2d(spread, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, 1, x.shape[1])


def windowed_weight_gradient(x: torch.Tensor, u: torch.Tensor, weight: torch.Tensor,
                             stride: tuple[int, int]) -> torch.Tensor:
    """Gradient of a depthwise weight (C, 1, k, k), k = 5 or 7, as `summed_weight_gradient`. It is put together from the
    gradients of windows of 3 x 3 positions that begin at every other position."""
    kernel, gradient = weight.shape[-1], torch.empty_like(weight)
    padded, window = F.pad(x, [kernel // 2] * 4), weight[:, :, :3, :3].contiguous()
    height, width = ((size - 1) * step + 3 for size, step in zip(u.shape[-2:], stride, strict=True))
    for i in range(0, kernel - 1, 2):
        for j in range(0, kernel - 1, 2):
            part = padded[:, :, i:i + height, j:j + width]
            gradient[:, :, i:i + 3, j:j + 3] = _gradient(part, u, window, stride, 0, of_input=False)
    return gradient


def summed_weight_gradient(x: torch.Tensor, u: torch.Tensor, weight: torch.Tensor,
                              stride: tuple[int, int]) -> torch.Tensor:
    """Gradient of a depthwise weight (C, 1, k, k) with padding k // 2, from the input (N, C, H, W) and the upstream
    gradient (N, C, H', W'): entry (i, j) is the sum over images and pixels of u[h, w] x[h stride + i - pad, ...]."""
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
    """The outputs h of `out` whose input h stride + offset lies in an input of `size`, and these inputs."""
    first, last = max(0, -(offset // stride)), min(out - 1, (size - 1 - offset) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + offset, last * stride + offset + 1, stride)
