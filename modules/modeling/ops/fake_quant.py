"""LSQ+ fake quantisation (Bhalgat et al., 2020; the gradients are Esser et al.'s, LSQ, 2020).

With t = (v - beta) / s and bounds n, p the quantised value is round(clip(t, n, p)) * s + beta. Rounding is half to
even; the gradient passes straight through it. Values at or beyond a bound count as clipped. For an upstream gradient u:

                    dv    ds                   dbeta
    n < t < p       u     g u (round(t) - t)   0
    t <= n          0     g u n                g u
    t >= p          0     g u p                g u

with g = 1 / sqrt(count * p). count is the number of elements of one sample for activations, of the tensor for weights.
n is 0 for activations, beta is 0 for weights. Each quantiser is one autograd function. It keeps its input and its
output; the neighbouring layers keep both anyway.

The passes over the elements have three forms, of which `use_form` chooses.
"""
from __future__ import annotations

import functools

import numpy as np
import torch

from modules.modeling.codes import activation_levels, integer_zero_point, weight_bounds
from modules.modeling.ops.compiled import compiled, memory

LOOPS, OPERATIONS, COMPILED = FORMS = ("loops", "operations", "compiled")
SMALL = 2**17  # elements; with fewer, one thread is quick enough
_form = LOOPS
_NOTHING = np.empty(0, np.float32)


def use_form(form: str) -> None:
    """Choose the form of the passes over the elements, in the whole process.

    loops: those of `loops.py` on a CPU, where numba is installed and torch has one thread or the tensor is small;
    otherwise as operations. operations: one of torch after the other. compiled: these operations fused by
    torch.compile; on a CPU it needs a C++ compiler, and the first training step takes up to a minute.

    Values are the same to the bit on a CPU; gradients differ by the order of their sums.
    """
    global _form
    assert form in FORMS, form
    _form = form


def _compilable(function):
    fused = functools.cache(lambda: torch.compile(function, dynamic=True))

    @functools.wraps(function)
    def call(*args):
        if _form != COMPILED:
            return function(*args)
        # Detached: a parameter, or a tensor that requires a gradient, would be compiled once more.
        return fused()(*(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args))
    return call


def _loops(x: torch.Tensor):
    """The loops for `x`; None if they do not fit: another device, neither fp32 nor bf16, a gradient is wanted
    through it, or it is long and there are threads to share it."""
    if (_form != LOOPS or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16)
            or (x.requires_grad and torch.is_grad_enabled())):
        return None
    return compiled("loops") if x.numel() <= SMALL or torch.get_num_threads() == 1 else None


def loops_chosen() -> bool:
    """Whether the passes have the form of loops, where these fit."""
    return _form == LOOPS


def lower_bound(num_bits: int) -> float:
    """The smallest allowed scale of a quantiser."""
    return 1e-7 / (2**num_bits - 1)


def quantize_activation(activation: torch.Tensor, scale: torch.Tensor, num_bits: int, beta: torch.Tensor,
                        is_training: bool, zero_point: str = "integer") -> torch.Tensor:
    """Fake-quantise an activation to codes 0 ... 2^num_bits - 1 (LSQ+; Bhalgat et al., 2020); returns its shape.

    Args:
        activation: any shape with the batch first, such as (8, 24, 56, 56).
        scale, beta: one element each; the step, and the value of code 0.
        num_bits: 2 to 8; 32 returns the input.
        is_training: straight-through and scaled gradients; otherwise plain rounding.
        zero_point: "float" uses the plain `beta` (published). "integer" moves it to the nearest multiple of the scale
            that gives zero a code; the gradient of `beta` passes straight through.
    """
    if num_bits == 32:
        return activation
    levels, integer = activation_levels(num_bits), zero_point == "integer"
    if not is_training:
        return _activation_codes(activation, scale, beta, levels, integer)[0]
    return _QuantizeActivation.apply(activation, scale, beta, levels, integer, gradient_scale(activation, levels))


def gradient_scale(activation: torch.Tensor, levels: int) -> float:
    """The factor g = 1 / sqrt(n levels) of the gradients of scale and offset, for n values of an image and codes 0 ...
    `levels` (LSQ; Esser et al., 2020): 1 / sqrt(75264 * 255) for (8, 24, 56, 56) and 8 bits."""
    return (activation.numel() // len(activation) * levels) ** -0.5


def quantize_weight(weight: torch.Tensor, scale: torch.Tensor, num_bits: int, is_training: bool,
                    narrow_range: bool = True) -> torch.Tensor:
    """Fake-quantise a weight to signed codes.

    Args:
        weight: any shape, such as (24, 16, 3, 3).
        scale: one element; the step.
        num_bits: 2 to 8; 32 returns the input.
        is_training: straight-through and scaled gradients; otherwise plain rounding.
        narrow_range: leave out the lowest code (-128 of 8 bits), so that a change of sign stays in range. The published
            range is the full one.
    """
    if num_bits == 32:
        return weight
    bounds = weight_bounds(num_bits, narrow_range)
    if not is_training:
        return _weight_codes(weight, scale, bounds)
    return _QuantizeWeight.apply(weight, scale, bounds, (weight.numel() * bounds[1]) ** -0.5)


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, or a copy of one with gaps. Its exact strides matter: a 1 x 1 map (N, C, 1, 1) or weight counts as
    contiguous in both layouts, and only its strides tell which one it has. A convolution with the wrong one runs up to
    88 times as long. `torch.empty_like` keeps them."""
    return tensor if _is_dense(tensor) else tensor.contiguous()


def _ordered(gradient: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """`gradient` with its elements in memory in the order of those of `dense`."""
    return gradient.contiguous(
        memory_format=torch.contiguous_format if dense.is_contiguous() else torch.channels_last)


def _vector(dense: torch.Tensor) -> torch.Tensor:
    """The elements of a dense tensor in the order of memory, (numel,).

    One compiled form serves vectors of all shapes, and their gradient sums are dot products.
    """
    return dense.as_strided((dense.numel(),), (1,))


def _restore(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`vector`, from `_vector` of `like`, with the shape and strides of `like`."""
    return vector.as_strided(like.shape, like.stride())


def _scalars(x: torch.Tensor, *values: torch.Tensor) -> tuple:
    """`values`, tensors of one element: as fp32 numbers in an eager pass over `x` on a CPU, otherwise unchanged.

    On a CPU reading a number costs nothing. One operation on a tensor of one element takes as long as a pass over
    several thousand. Kernels with numbers as bounds need one pass for both bounds.
    """
    if _form == COMPILED or x.device.type != "cpu":
        return values
    return tuple(np.float32(value.item()) for value in values)


def _plain(value):
    return float(value) if isinstance(value, np.floating) else value


def _like(value, scalar: torch.Tensor) -> torch.Tensor:
    """The gradient `value`, a number or a tensor, in the shape of `scalar`."""
    return value.view_as(scalar) if isinstance(value, torch.Tensor) else torch.full_like(scalar, float(value))


def _activation_codes(x, scale, beta, levels, integer):
    """The output for `x`, and the value of code 0. With an integer zero point the arithmetic is an integer engine's:
    round(x / s), then the bounds shifted by the zero point."""
    dense = _dense(x)
    if loops := _loops(dense):
        y = torch.empty_like(dense)
        low = loops.activation_codes(memory(dense), memory(scale), memory(beta), levels, integer, memory(y))
        return y, np.float32(low)
    out, low = _activation_passes(_vector(dense).float(), *_scalars(x, scale, beta), levels, integer)
    return _restore(out.to(x.dtype), dense), low


@_compilable
def _activation_passes(x, scale, beta, levels, integer):
    """The output for the vector `x`, and the value of code 0."""
    s = abs(scale)
    if not integer:
        offset = _plain(beta)
        return (x - offset).div_(_plain(s)).clamp_(0, levels).round_().mul_(_plain(s)).add_(offset), beta
    zero = integer_zero_point(s, beta, levels)
    codes = _clamp_((x / _plain(s)).round_(), -zero, levels - zero)
    return codes.mul_(_plain(s)), -zero * s


def _clamp_(x, low, high):
    if isinstance(low, torch.Tensor):
        return x.clamp_min_(low).clamp_max_(high)
    return x.clamp_(_plain(low), _plain(high))


def _weight_codes(w, scale, bounds):
    """The output for `w`."""
    dense = _dense(w)
    if loops := _loops(dense):
        y = torch.empty_like(dense)
        loops.weight_codes(memory(dense), memory(scale), *bounds, memory(y))
        return y
    return _restore(_weight_passes(_vector(dense).float(), *_scalars(w, scale), bounds).to(w.dtype), dense)


@_compilable
def _weight_passes(w, scale, bounds):
    s = _plain(abs(scale))
    return (w / s).clamp_(*bounds).round_().mul_(s)


class _QuantizeActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, beta, levels, integer, g):
        y, ctx.low = _activation_codes(x, scale, beta, levels, integer)
        ctx.save_for_backward(x, y, scale, beta)
        ctx.levels, ctx.integer, ctx.g = levels, integer, g
        return y

    @staticmethod
    def backward(ctx, u):
        x, y, scale, beta = ctx.saved_tensors
        x = _dense(x)
        u = _ordered(u, x)
        # In bf16 the output is too coarse: its own error hides that of quantisation. It is made anew in fp32.
        kept = y.dtype == torch.float32
        if loops := _loops(x):
            dx, ds, dbeta = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(beta)
            loops.activation_gradients(
                memory(u), memory(x), memory(y) if kept else _NOTHING, memory(scale), memory(beta), ctx.levels,
                ctx.integer, ctx.g, memory(dx), memory(ds), memory(dbeta))
            return dx, ds, dbeta, None, None, None
        signed, offset = _scalars(x, scale, beta)
        s, low, vector = abs(signed), ctx.low, _vector(x)
        exact = _vector(y) if kept else _activation_passes(vector.float(), signed, offset, ctx.levels, ctx.integer)[0]
        high = low + s * ctx.levels if isinstance(s, torch.Tensor) else low + s * np.float32(ctx.levels)
        dx, inner, clipped, clipped_y = _gradient_sums(_vector(u), vector, exact, low, high)
        ds = (inner + clipped_y - low * clipped) / signed * ctx.g
        return _restore(dx, x), _like(ds, scale), _like(clipped * ctx.g, beta), None, None, None


class _QuantizeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, scale, bounds, g):
        y = _weight_codes(w, scale, bounds)
        ctx.save_for_backward(w, y, scale)
        ctx.bounds, ctx.g = bounds, g
        return y

    @staticmethod
    def backward(ctx, u):
        w, y, scale = ctx.saved_tensors
        w = _dense(w)
        u = _ordered(u, w)
        if loops := _loops(w):
            dw, ds = torch.empty_like(w), torch.empty_like(scale)
            loops.weight_gradients(memory(u), memory(w), memory(y), memory(scale), *ctx.bounds, ctx.g, memory(dw),
                                   memory(ds))
            return dw, ds, None, None
        (signed,), (low, high) = _scalars(w, scale), ctx.bounds
        s = abs(signed)
        dw, inner, _, clipped_y = _gradient_sums(_vector(u), _vector(w), _vector(y), s * low, s * high)
        return _restore(dw, w), _like((inner + clipped_y) / signed * ctx.g, scale), None, None


def _gradient_sums(u, x, y, low, high):
    """The gradient of the vector `x`, the sum over elements of u (y - x) inside the bounds, and the sums of u and of
    u y outside."""
    dx, *sums = _gradient_passes(u.float(), x.float(), y.float(), low, high)
    return dx.to(u.dtype), *sums


@_compilable
def _gradient_passes(u, x, y, low, high):
    if isinstance(low, torch.Tensor):
        dx = ((x > low) & (x < high)) * u
    else:
        dx = torch.ops.aten.hardtanh_backward(u, x, _plain(low), _plain(high))  # u inside the bounds, 0 outside
    outside = u - dx
    clipped, clipped_y = outside.sum(), torch.dot(outside, y)
    error = torch.sub(y, x, out=outside)  # fresh memory costs more than a pass over used memory
    sums = torch.dot(dx, error), clipped, clipped_y
    return dx, *(sums if isinstance(low, torch.Tensor) else (value.item() for value in sums))
