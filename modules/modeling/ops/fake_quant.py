"""LSQ+ fake quantisation (Bhalgat et al., 2020; the gradients are Esser et al.'s, LSQ, 2020).

With t = (v - beta) / s and bounds n, p the quantised value is round(clip(t, n, p)) * s + beta. Rounding is half to even
and passes the gradient straight through; values at or beyond a bound count as clipped. For an upstream gradient u:

                    dv    ds                   dbeta
    n < t < p       u     g u (round(t) - t)   0
    t <= n          0     g u n                g u
    t >= p          0     g u p                g u

with g = 1 / sqrt(count * p), count the elements of one sample (activations, whose n is 0) or of the tensor (weights,
whose beta is 0). Each quantiser is one autograd function that keeps its input and its output, both of which the
neighbouring layers keep anyway.
"""
from __future__ import annotations

import functools

import torch

from modules.modeling.codes import activation_levels, integer_zero_point, weight_bounds

_compiled = False


def use_compiled(enabled: bool = True) -> None:
    """Let torch.compile fuse the passes over the elements; the switch holds for the whole process.

    Values stay the same, gradients up to the order of their sums. On a CPU it needs a C++ compiler, and the first
    training step takes up to a minute.
    """
    global _compiled
    _compiled = enabled


def _compilable(function):
    compiled = functools.cache(lambda: torch.compile(function, dynamic=True))

    @functools.wraps(function)
    def call(*args):
        if not _compiled:
            return function(*args)
        # Detached: a parameter, or a tensor that requires a gradient, would be compiled for once more.
        return compiled()(*(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args))
    return call


def lower_bound(num_bits: int) -> float:
    """The smallest scale a quantiser may have."""
    return 1e-7 / (2**num_bits - 1)


def quantize_activation(activation: torch.Tensor, scale: torch.Tensor, num_bits: int, beta: torch.Tensor,
                        is_training: bool, zero_point: str = "integer") -> torch.Tensor:
    """Fake-quantise an activation to codes 0 ... 2^num_bits - 1.

    Args:
        activation: any shape with the batch first.
        scale, beta: one element each; the step, and the value of code 0.
        num_bits: 2 to 8; 32 returns the input.
        is_training: straight-through and scaled gradients; otherwise plain rounding.
        zero_point: "float" uses `beta` as it is (published); "integer" moves it to the nearest multiple of the scale
            at which zero has a code (the gradient of `beta` passes straight through).
    """
    if num_bits == 32:
        return activation
    levels, integer = activation_levels(num_bits), zero_point == "integer"
    if not is_training:
        return _restore(_activation_forward(_vector(activation), scale, beta, levels, integer)[0], activation)
    g = (activation[0].numel() * levels) ** -0.5
    return _QuantizeActivation.apply(activation, scale, beta, levels, integer, g)


def quantize_weight(weight: torch.Tensor, scale: torch.Tensor, num_bits: int, is_training: bool,
                    narrow_range: bool = True) -> torch.Tensor:
    """Fake-quantise a weight to signed codes.

    Args:
        weight: any shape.
        scale: one element; the step.
        num_bits: 2 to 8; 32 returns the input.
        is_training: straight-through and scaled gradients; otherwise plain rounding.
        narrow_range: leave out the lowest code (-128 of 8 bits), so that a change of sign stays in range; the
            published range is the full one.
    """
    if num_bits == 32:
        return weight
    bounds = weight_bounds(num_bits, narrow_range)
    if not is_training:
        return _restore(_weight_forward(_vector(weight), scale.abs(), bounds), weight)
    return _QuantizeWeight.apply(weight, scale, bounds, (weight.numel() * bounds[1]) ** -0.5)


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _vector(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of `tensor` in fp32 in the order of memory, (numel,).

    Vectors need one compiled form for all shapes, and their gradient sums are dot products.
    """
    dense = tensor if _is_dense(tensor) else tensor.contiguous()
    return dense.as_strided((dense.numel(),), (1,)).float()


def _restore(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`vector` with shape, strides and type of `like`, whose elements `_vector` gave.

    The strides themselves, for those of a 1 x 1 map (N, C, 1, 1) or weight tell its layout, which it counts as
    contiguous in either way: a convolution that reads the wrong one runs up to 88 times as long.
    """
    vector = vector.to(like.dtype)
    return vector.as_strided(like.shape, like.stride()) if _is_dense(like) else vector.view(like.shape)


def _ordered(gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The elements of `gradient` in fp32, in the order in which `_vector` gives those of `like`."""
    if not like.is_contiguous() and _is_dense(like):
        return _vector(gradient.contiguous(memory_format=torch.channels_last))
    return gradient.contiguous().view(-1).float()


@_compilable
def _activation_forward(x, scale, beta, levels, integer):
    # Returns the output and the value of code 0. With an integer zero point the arithmetic is that of an integer
    # engine: round(x / s), then the bounds shifted by the zero point.
    s = scale.abs()
    if not integer:
        return (x - beta).div_(s).clamp_(0, levels).round_().mul_(s).add_(beta), beta
    zero = integer_zero_point(s, beta, levels)
    codes, low, high = (x / s).round_(), -zero, levels - zero
    if _reads_numbers(x):
        codes.clamp_(low.item(), high.item())
    else:
        codes.clamp_min_(low).clamp_max_(high)
    return codes.mul_(s), -zero * s


def _reads_numbers(x: torch.Tensor) -> bool:
    """Whether a tensor's value can be read for nothing: torch has kernels of one pass for bounds that are numbers."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


@_compilable
def _weight_forward(w, s, bounds):
    return (w / s).clamp_(*bounds).round_().mul_(s)


class _QuantizeActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, beta, levels, integer, g):
        y, low = _activation_forward(_vector(x), scale, beta, levels, integer)
        y = _restore(y, x)
        ctx.save_for_backward(x, y, scale, beta, low)
        ctx.levels, ctx.integer, ctx.g = levels, integer, g
        return y

    @staticmethod
    def backward(ctx, u):
        x, y, scale, beta, low = ctx.saved_tensors
        s, vector = scale.abs(), _vector(x)
        # In bf16 the output is too coarse to tell the error of quantisation from its own.
        exact = _vector(y) if y.dtype == torch.float32 else _activation_forward(vector, scale, beta, ctx.levels,
                                                                                 ctx.integer)[0]
        dx, inner, clipped, clipped_y = _gradient_sums(_ordered(u, x), vector, exact, low, low + ctx.levels * s)
        ds = (inner + clipped_y - low * clipped) / s * ctx.g * scale.sign()
        return _restore(dx, x), ds.view_as(scale), (clipped * ctx.g).view_as(scale), None, None, None


class _QuantizeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, scale, bounds, g):
        s = scale.abs()
        y = _restore(_weight_forward(_vector(w), s, bounds), w)
        ctx.save_for_backward(w, y, scale)
        ctx.bounds, ctx.g = bounds, g
        return y

    @staticmethod
    def backward(ctx, u):
        w, y, scale = ctx.saved_tensors
        s, (low, high) = scale.abs(), ctx.bounds
        dw, inner, _, clipped_y = _gradient_sums(_ordered(u, w), _vector(w), _vector(y), low * s, high * s)
        return _restore(dw, w), ((inner + clipped_y) / s * ctx.g * scale.sign()).view_as(scale), None, None


@_compilable
def _gradient_sums(u, x, y, low, high):
    """The gradient of `x`, and the sums over elements of u (y - x) inside the bounds, of u and of u y outside."""
    if _reads_numbers(x):
        dx = torch.ops.aten.hardtanh_backward(u, x, low.item(), high.item())  # u inside the bounds, 0 outside
    else:
        dx = ((x > low) & (x < high)) * u
    outside = u - dx
    clipped, clipped_y = outside.sum(), torch.dot(outside, y)
    error = torch.sub(y, x, out=outside)  # fresh memory costs more than a pass over used memory
    return dx, torch.dot(dx, error), clipped, clipped_y
