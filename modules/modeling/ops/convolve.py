"""Convolutions of feature maps (N, C, H, W) on a CPU, without the slow paths of oneDNN. All reformulations are exact.

- Most of a kernel lies outside a map smaller than the kernel: only its centre is convolved.
- A 1 x 1 convolution of a small map is a product of matrices. oneDNN arranges the weight anew for each one, which takes
  up to 20 times as long. One with a stride is one of every other pixel.
- The gradient of a depthwise weight is a loop of `depthwise.py`.
- The gradient of a depthwise convolution's input is a convolution by the turned kernel. In bf16 that holds with a
  stride, too: with zeros between the values of the upstream gradient.
- In bf16 the gradient of a dense weight on a small map is a product of matrices.

The forms of gradients are for training alone: a weight that learns nothing, or a pass without gradients, takes torch's
convolution.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from modules.modeling.ops.compiled import array, compiled
from modules.modeling.spec import borders

# Pixels along the longer side of an output, up to which another form is faster (measured with 16 to 128 images).
SMALL, SMALL_POINTWISE = 4, 14
FEW = 64  # channels; with fewer, oneDNN's gradient of a depthwise 3 x 3 weight is faster in bf16
MANY = 8  # threads; with more, oneDNN shares its work among enough of them to be as fast in fp32 as a loop in one


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
    if x.device.type != "cpu" or not (weight.requires_grad and torch.is_grad_enabled()):
        return F.conv2d(x, weight, bias, stride, pad, 1, groups)
    if groups == 1 and pad == 0:
        return _pointwise(_Every.apply(x, stride) if max(stride) > 1 else x, weight, bias)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    depthwise = groups > 1 and weight.shape[:2] == (x.shape[1], 1)
    if bias is None and (depthwise or (groups == 1 and dtype == torch.bfloat16 and _longest(x, stride) <= SMALL)):
        return _Convolution.apply(x.to(dtype), weight.to(dtype), stride, groups)
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


def _longest(x: torch.Tensor, stride: tuple[int, int]) -> int:
    """Pixels along the longer side of the output."""
    return max(-(-size // step) for size, step in zip(x.shape[-2:], stride, strict=True))


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The 1 x 1 convolution of all pixels of `x`."""
    if max(x.shape[-2:]) > SMALL_POINTWISE or not x.permute(0, 2, 3, 1).is_contiguous():
        return F.conv2d(x, weight, bias)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class _Every(torch.autograd.Function):
    """The first pixel of every `stride` in both directions. The gradient has the layout of the input. Without that,
    batch norm before it would take ten times as long."""

    @staticmethod
    def forward(ctx, x, stride):
        ctx.stride = stride
        ctx.save_for_backward(x)  # the neighbouring layers keep it anyway
        return x[:, :, ::stride[0], ::stride[1]].clone()  # in the layout of x

    @staticmethod
    @once_differentiable
    def backward(ctx, u):
        return _spread(ctx.saved_tensors[0], u, ctx.stride), None


def _spread(x: torch.Tensor, u: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """`u`, a value for the first pixel of every `stride`, in zeros like `x`."""
    spread = torch.zeros_like(x)
    spread[:, :, ::stride[0], ::stride[1]] = u
    return spread


class _Convolution(torch.autograd.Function):
    """Depthwise convolution, or dense one to a small map, without bias."""

    @staticmethod
    def forward(ctx, x, weight, stride, groups):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.groups = stride, groups
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, u):
        x, weight = ctx.saved_tensors
        form = _depthwise_gradients if ctx.groups > 1 else _dense_gradients
        return *form(x, u, weight, ctx.stride, ctx.needs_input_grad[0]), None, None


def _depthwise_gradients(x, u, weight, stride, of_input: bool):
    kernel, half, dx = weight.shape[-1], x.dtype == torch.bfloat16, None
    if of_input:
        turned = max(stride) == 1 or half
        dx = turned_input_gradient(x, u, weight, stride) if turned else _gradient(x, u, weight, stride, of_input=True)
    threads = torch.get_num_threads()
    if kernel > 3 or max(u.shape[-2:]) <= SMALL:
        looped = half or threads <= MANY
    else:
        looped = half and x.shape[1] >= FEW and threads == 1
    if looped and compiled("depthwise"):
        return dx, looped_weight_gradient(x, u, weight, stride)
    return dx, _gradient(x, u, weight, stride, of_input=False)


def _dense_gradients(x, u, weight, stride, of_input: bool):
    dx = _gradient(x, u, weight, stride, groups=1, of_input=True) if of_input else None
    return dx, multiplied_weight_gradient(x, u, weight, stride)


def _gradient(x, u, weight, stride, *, of_input: bool, groups: int = 0) -> torch.Tensor:
    """The library's gradient of a convolution's input or weight; depthwise without `groups`."""
    pad = weight.shape[-1] // 2
    gradients = torch.ops.aten.convolution_backward(u, x, weight, None, stride, [pad, pad], [1, 1], False, [0, 0],
                                                    groups or x.shape[1], [of_input, not of_input, False])
    return gradients[0 if of_input else 1]


def turned_input_gradient(x: torch.Tensor, u: torch.Tensor, weight: torch.Tensor,
                          stride: tuple[int, int]) -> torch.Tensor:
    """Gradient of the input `x` (N, C, H, W) of a depthwise convolution with padding k // 2, from the upstream gradient
    `u` (N, C, H', W'), such as (8, 32, 28, 28) from (8, 32, 14, 14)."""
    u = _spread(x, u, stride) if max(stride) > 1 else u
    return F.conv2d(u, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, 1, x.shape[1])


def looped_weight_gradient(x: torch.Tensor, u: torch.Tensor, weight: torch.Tensor,
                           stride: tuple[int, int]) -> torch.Tensor:
    """Gradient of a depthwise weight (C, 1, k, k) with padding k // 2, from the input (N, C, H, W) and the upstream
    gradient (N, C, H', W'): entry (i, j) is the sum over images and pixels of u[h, w] x[h stride + i - pad, ...]."""
    sums = torch.zeros(*weight.shape[2:], len(weight), dtype=torch.promote_types(x.dtype, torch.float32))
    compiled("depthwise").weight_gradient(_rows(x), _rows(u), *stride, sums.numpy())
    return sums.permute(2, 0, 1)[:, None].to(weight.dtype)


def _rows(x: torch.Tensor):
    """The rows of a map (N, C, H, W) with the channels last, an array (N, H, W C); bf16 as its bits."""
    return array(x.permute(0, 2, 3, 1).contiguous().flatten(2))


def multiplied_weight_gradient(x: torch.Tensor, u: torch.Tensor, weight: torch.Tensor,
                               stride: tuple[int, int]) -> torch.Tensor:
    """Gradient of a dense weight (O, I, k, k), such as (128, 80, 3, 3), as a product of the upstream gradient, a row
    for each output (N H' W', O), and the inputs that each output has seen (N H' W', k k I)."""
    kernel, channels = weight.shape[-1], x.shape[1]
    padded = F.pad(x, [kernel // 2] * 4).permute(0, 2, 3, 1).contiguous()
    n, row, pixel, value = padded.stride()
    seen = padded.as_strided((len(x), *u.shape[2:], kernel, kernel, channels),
                             (n, row * stride[0], pixel * stride[1], row, pixel, value))
    product = u.permute(0, 2, 3, 1).flatten(0, 2).T @ seen.reshape(-1, kernel * kernel * channels)
    return product.view(len(weight), kernel, kernel, channels).permute(0, 3, 1, 2)
