"""The quantiser of Adjustable Quantization (MicroNet challenge, 2019): per channel a range that can be moved and
scaled, and a number of bits between 2 and 8 that is learned."""
from __future__ import annotations

import torch
from torch import nn

from modules.adjustable.config import RANGES

LEAST_BITS, MOST_BITS = 2, 8
_EPS = 1e-7


class _Quantize(torch.autograd.Function):
    """x -> (clip(round(x s) - z, 0, top) + z) / s with z = round(low s); rounding passes gradients straight through."""

    @staticmethod
    def forward(ctx, x, low, scale, top):
        zero = torch.round(low * scale)
        code = torch.round(x * scale) - zero
        result = (torch.minimum(code.clamp(min=0), top) + zero) / scale
        above = code > top
        ctx.save_for_backward(x, low, scale, result, above, (code < 0) | above)
        return result

    @staticmethod
    def backward(ctx, gradient):
        x, low, scale, result, above, outside = ctx.saved_tensors

        def summed(values):
            return values.sum_to_size(scale.shape)

        return (gradient.masked_fill(outside, 0), summed(gradient * outside),
                summed(gradient * (torch.where(outside, low, x) - result) / scale),
                summed(gradient * above / scale))


class AdjustableQuantizer(nn.Module):
    """Quantises along one axis; min and width of every channel come from calibration.

    Args:
        low, high: (channels,) ends of the calibrated range.
        axis: of the channels in what is quantised; None: one range for all.
        limits: an entry of `RANGES`.
        bits_trainable: whether the bits are learned; 8 otherwise.

    `width_scale`, `shift` and `bits_scale` (1 means 8 bits) are the parameters, (channels,) each.
    """

    def __init__(self, low: torch.Tensor, high: torch.Tensor, axis: int | None, limits=RANGES["5"],
                 bits_trainable: bool = True):
        super().__init__()
        self.axis, self.limits, self.bits_trainable = axis, limits, bits_trainable
        self.register_buffer("low", low.detach().clone())
        self.register_buffer("width", (high - low).detach())
        self.width_scale = nn.Parameter(torch.ones_like(low))
        self.shift = nn.Parameter(torch.zeros_like(low))
        if bits_trainable:
            self.bits_scale = nn.Parameter(torch.ones_like(low))

    def bits(self) -> torch.Tensor:
        """(channels,) whole numbers of bits; their gradient is that of the unrounded ones between the bounds."""
        if not self.bits_trainable:
            return torch.full_like(self.low, MOST_BITS)
        exact = self.bits_scale * MOST_BITS
        return (exact + (exact.round() - exact).detach()).clamp(LEAST_BITS, MOST_BITS)

    def forward(self, x: torch.Tensor, live: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """`x` fake-quantised; `live` are (min, max) that take the calibrated ones' place, with their gradient."""
        low, width = (self.low, self.width) if live is None else (live[0], live[1] - live[0])
        scale_limits, shift_limits = self.limits
        top = 2 ** self.bits() - 1
        adjusted = width * self.width_scale.clamp(*scale_limits)
        low, scale = low + width * self.shift.clamp(*shift_limits), top / (adjusted + _EPS)
        if self.axis is not None:
            shape = [1] * x.ndim
            shape[self.axis] = -1
            low, scale, top = (t.view(shape) for t in (low, scale, top))
        return _Quantize.apply(x, low, scale, top)


def channel_range(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(minimum, maximum) of `x` over all axes but one."""
    flat = x.detach().movedim(axis, 0).flatten(1)
    return flat.amin(1), flat.amax(1)
