"""The quantiser of Adjustable Quantization (MicroNet challenge, 2019): per channel a range that can be moved and
scaled, and a number of bits between 2 and 8 that is learned."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from modules.adjustable.config import ENGINE_BITS, RANGES
from modules.adjustable.fake_quant import fake_quantize

LEAST_BITS, MOST_BITS = 2, 8
_EPS = 1e-7
_JUST_BELOW = 1e-3  # bits, by which a lowered number stays away from where it would round up


class AdjustableQuantizer(nn.Module):
    """Quantises along one axis; min and width of every channel come from calibration.

    Args:
        low, high: (channels,) ends of the calibrated range.
        axis: of the channels in what is quantised; None: one range for all, (1,).
        limits: an entry of `RANGES`.
        bits_trainable: whether the bits are learned; `bits` otherwise.
        bits: that learning starts from.
        engine: as integer engines have it. A weight's codes are symmetric and its channels share their bits, which are
            4 or 8; a tensor (`axis` None) has zero in its range.

    `width_scale`, `shift` (none of a symmetric range) and `bits_scale` (1 means `bits`) are the parameters.
    """

    def __init__(self, low: torch.Tensor, high: torch.Tensor, axis: int | None, limits=RANGES["5"],
                 bits_trainable: bool = True, bits: float = MOST_BITS, engine: bool = False):
        super().__init__()
        self.axis, self.limits, self.engine = axis, limits, engine
        self.bits_trainable, self.start = bits_trainable, bits
        self.symmetric = engine and axis is not None
        self.register_buffer("low", low.detach().clone())
        self.register_buffer("width", (high - low).detach())
        self.set_range(low.detach(), high.detach())
        self.width_scale = nn.Parameter(torch.ones_like(low))
        if not self.symmetric:
            self.shift = nn.Parameter(torch.zeros_like(low))
        if bits_trainable:
            self.bits_scale = nn.Parameter(torch.ones(1 if engine else len(low), dtype=low.dtype, device=low.device))

    def set_range(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Take (channels,) ends as the calibrated ones; those of a symmetric range are the larger one's."""
        if self.symmetric:
            high = torch.maximum(low.abs(), high.abs())
            low = -high
        if self.axis is None:
            low, high = low.min().view(1), high.max().view(1)
        self.low.copy_(low)
        self.width.copy_(high - low)

    # -- bits -------------------------------------------------------------------------------------------------------

    def bits(self) -> torch.Tensor:
        """(channels,) whole numbers of bits; their gradient is that of the unrounded ones between the bounds."""
        if not self.bits_trainable:
            return torch.full_like(self.low, self.start)
        exact = self.bits_scale * self.start
        return (exact + (self._rounded(exact) - exact).detach()).clamp(*self._bounds).expand(len(self.low))

    @property
    def _bounds(self) -> tuple[int, int]:
        return ENGINE_BITS if self.engine else (LEAST_BITS, MOST_BITS)

    def _rounded(self, exact: torch.Tensor) -> torch.Tensor:
        least, most = ENGINE_BITS
        return torch.where(exact * 2 < least + most, least, most).to(exact) if self.engine else exact.round()

    def _step_down(self) -> torch.Tensor:
        """The unrounded number of bits below which each channel has fewer; -inf where it has the fewest."""
        exact = self.bits_scale.detach() * self.start
        rounded = self._rounded(exact).clamp(*self._bounds)
        edge = torch.full_like(exact, sum(ENGINE_BITS) / 2) if self.engine else rounded - 0.5
        return torch.where(rounded > self._bounds[0], edge, -torch.inf)

    def slack(self) -> torch.Tensor:
        """How many bits each number is above the edge to the next lower one; inf where there is none."""
        return (self.bits_scale.detach() * self.start).clamp(*self._bounds) - self._step_down()

    @torch.no_grad()
    def lower(self, which: torch.Tensor) -> None:
        """Give those channels that the mask names the next lower number of bits."""
        self.bits_scale[which] = ((self._step_down() - _JUST_BELOW) / self.start)[which]

    # -- values -----------------------------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor, live: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """`x`, such as (8, 24, 56, 56), fake-quantised. `live` are ends (min, max), (channels,) each, such as (24,),
        that take the place of the calibrated ones; they get gradients."""
        return fake_quantize(x, *self.grid(live), self.axis)

    def grid(self, live=None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(channels,) each: the low end, steps for a unit, and the number of steps."""
        low, width = (self.low, self.width) if live is None else (live[0], live[1] - live[0])
        scale_limits, shift_limits = self.limits
        adjusted = width * self.width_scale.clamp(*scale_limits)
        if self.symmetric:
            top = 2 ** self.bits() - 2
            return -adjusted / 2, top / (adjusted + _EPS), top
        low = low + width * self.shift.clamp(*shift_limits)
        if self.engine:
            high = (low + adjusted).clamp(min=0)
            low = low.clamp(max=0)
            adjusted = high - low
        top = 2 ** self.bits() - 1
        return low, top / (adjusted + _EPS), top


def channel_range(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(minimum, maximum) of `x` over all axes but `axis`: (24,) each for (8, 24, 56, 56) and axis 1."""
    flat = x.detach().movedim(axis, 0).flatten(1)
    return flat.amin(1), flat.amax(1)


@torch.no_grad()
def land(quantizers: list[AdjustableQuantizer], score: Callable[[], float], target: float) -> int:
    """Lower the bits of as few channels as bring `score` to `target` or below; returns how many.

    The first ones are those that are nearest to having fewer bits. Where not even one bit fewer for every channel is
    enough, the score stays above the target.
    """
    start = [q.bits_scale.clone() for q in quantizers]
    slack = [q.slack() for q in quantizers]
    order = torch.cat(slack).sort()[0]
    order = order[order.isfinite()]

    def lowered(count: int) -> float:
        for quantizer, values, distance in zip(quantizers, start, slack, strict=True):
            quantizer.bits_scale.copy_(values)
            if count:
                quantizer.lower(distance <= order[count - 1])
        return score()

    low, high = 0, len(order)
    if lowered(0) <= target:
        return 0
    while low + 1 < high:  # lowered(low) is above the target
        middle = (low + high) // 2
        low, high = (low, middle) if lowered(middle) <= target else (middle, high)
    lowered(high)
    return high
