"""Elastic batch norm. In training on a CPU it is one pass with the activation and the quantiser that follow
(`norm_loops.py`).

The layer then gives a `Normed`, which computes nothing yet. The activation adds itself to it, and the quantiser of the
next layer makes the tensor. The backward pass makes the values between them anew: only the input and the output are
kept.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from modules.modeling.codes import activation_levels
from modules.modeling.ops import fake_quant
from modules.modeling.ops.activations import ACTIVATIONS
from modules.modeling.ops.compiled import array, compiled, memory

SIDE_BY_SIDE = 1024  # values of a row, up to which several pixels make one: short rows take longer
FEWEST = 2**17       # values of a map, for a norm without a quantiser: torch is as fast with fewer


# The activations that the loops know, "" for none: whether it is h-swish, otherwise the bounds of a clip.
_NO_BOUNDS = np.float32(-np.inf), np.float32(np.inf)
LOOPED = {"": (False, *_NO_BOUNDS), "relu": (False, np.float32(0), np.float32(np.inf)),
          "relu6": (False, np.float32(0), np.float32(6)), "hswish": (True, *_NO_BOUNDS)}


def looped(x: torch.Tensor) -> bool:
    """Whether the loops take `x`: fp32 or bf16 (N, C, H, W) on a CPU with the channels last, and torch has one
    thread."""
    return (x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu" and torch.get_num_threads() == 1
            and x.ndim == 4 and x.numel() > x.shape[1] and x.is_contiguous(memory_format=torch.channels_last)
            and fake_quant.loops_chosen() and compiled("norm_loops") is not None)


class DynamicBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its first channels for inputs with fewer channels.

    With `synchronized`, training uses the statistics of all processes' images, on a CPU too (torch's SyncBatchNorm
    refuses CPU tensors).
    """

    synchronized = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W), such as (8, 24, 56, 56), with C at most `num_features`."""
        if self.synchronized and self.training:
            return self._synchronized(x, x.shape[1])
        return Normed(x, self).tensor() if self._fits(x) else self.apart(x)

    def deferred(self, x: torch.Tensor) -> torch.Tensor | Normed:
        """The output for a caller that takes a `Normed`, where the loops fit."""
        hooked = self._forward_hooks or self._forward_pre_hooks
        return Normed(x, self) if not hooked and self._fits(x) else self(x)

    def apart(self, x: torch.Tensor) -> torch.Tensor:
        """The output by torch's batch norm of this process's images."""
        n = x.shape[1]
        if n == self.num_features:
            return super().forward(x)
        factor = self.count() if self.training else 0.0
        return F.batch_norm(x, self.running_mean[:n], self.running_var[:n], self.weight[:n], self.bias[:n],
                            self.training, factor, self.eps)

    def count(self) -> float:
        """Count a batch; returns the share of its statistics in the running ones."""
        self.num_batches_tracked.add_(1)
        # Without a momentum a cumulative average, for batch-norm calibration.
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _fits(self, x: torch.Tensor) -> bool:
        return (self.training and not self.synchronized and torch.is_grad_enabled()
                and self.weight.dtype == torch.float32 and looped(x))

    def _synchronized(self, x: torch.Tensor, n: int) -> torch.Tensor:
        from torch.distributed.nn.functional import all_reduce

        # Sums around a value near the mean: far from it, the sum of squares would lose its digits.
        pivot = self.running_mean[:n].clone()
        shifted = x - pivot.view(-1, 1, 1)
        count = pivot.new_full((1,), x.numel() / n)  # fp32: a half format holds no such number
        sums = all_reduce(torch.cat((shifted.sum((0, 2, 3)), (shifted * shifted).sum((0, 2, 3)), count)))
        count, mean = sums[-1].detach(), sums[:n] / sums[-1]
        var = sums[n:-1] / sums[-1] - mean * mean
        with torch.no_grad():
            factor = self.count()
            self.running_mean[:n].lerp_(mean + pivot, factor)
            self.running_var[:n].lerp_(var * count / (count - 1), factor)
        scale = self.weight[:n] * (var + self.eps).rsqrt()
        return (shifted * scale.view(-1, 1, 1) + (self.bias[:n] - mean * scale).view(-1, 1, 1)).to(x.dtype)


@dataclass(eq=False)
class Normed:
    """The batch norm in training of a map that is `looped`, such as (64, 24, 28, 28), and the activation behind it, not
    yet computed. One of the two forms of its tensor is made, once: the running statistics move."""

    x: torch.Tensor
    norm: DynamicBatchNorm2d
    activation: str = ""
    made: torch.Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """That of the tensor."""
        return self.x.shape

    def activated(self, kind: str) -> Normed | None:
        """This with the activation `kind`; None if it has one, or if the loops do not know it."""
        assert self.made is None
        return replace(self, activation=kind) if not self.activation and kind in LOOPED else None

    def tensor(self) -> torch.Tensor:
        """The tensor, without a quantiser."""
        if self.made is None:
            if self.x.numel() >= FEWEST and (self.activation or self.x.dtype == torch.bfloat16):
                self.made = self._looped(None, None, 0, False)
            else:
                y = self.norm.apart(self.x)
                self.made = ACTIVATIONS[self.activation](y) if self.activation else y
        return self.made

    def quantized(self, scale: torch.Tensor, beta: torch.Tensor, num_bits: int, zero_point: str) -> torch.Tensor:
        """The fake-quantised tensor in training, as of `quantize_activation`."""
        assert self.made is None
        return self._looped(scale, beta, activation_levels(num_bits), zero_point == "integer")

    def _looped(self, scale, beta, levels, integer):
        norm, n = self.norm, self.x.shape[1]
        statistics = compiled("norm_loops").statistics(_rows(self.x), array(norm.running_mean)[:n],
                                                       array(norm.running_var)[:n], norm.count(), norm.eps)
        return _Chain.apply(self.x, norm.weight, norm.bias, scale, beta, statistics, LOOPED[self.activation], levels,
                            integer)


def plain(x: torch.Tensor | Normed) -> torch.Tensor:
    """`x` as a tensor."""
    return x.tensor() if isinstance(x, Normed) else x


class _Chain(torch.autograd.Function):
    """`scale` and `beta` are None and `levels` 0 without codes."""

    @staticmethod
    def forward(ctx, x, weight, bias, scale, beta, statistics, activation, levels, integer):
        ctx.save_for_backward(x, weight, bias, scale, beta)
        ctx.statistics, ctx.activation, ctx.levels, ctx.integer = statistics, activation, levels, integer
        out, n = torch.empty_like(x), x.shape[1]
        compiled("norm_loops").forward(_rows(x), *statistics, array(weight)[:n], array(bias)[:n], *activation,
                                       _number(scale), _number(beta), levels, integer, _rows(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, u):
        x, weight, bias, scale, beta = ctx.saved_tensors
        n, dx = x.shape[1], torch.empty_like(x)
        new = torch.empty_like if n == len(weight) else torch.zeros_like
        dweight, dbias = new(weight), new(bias)
        dscale, dbeta = (torch.empty_like(v) if ctx.levels else None for v in (scale, beta))
        g = fake_quant.gradient_scale(x, ctx.levels) if ctx.levels else 0.0
        compiled("norm_loops").backward(
            _rows(u.contiguous(memory_format=torch.channels_last)), _rows(x), *ctx.statistics, array(weight)[:n],
            array(bias)[:n], *ctx.activation, _number(scale), _number(beta), ctx.levels, ctx.integer, g, _rows(dx),
            array(dweight)[:n], array(dbias)[:n], _number(dscale), _number(dbeta))
        return dx, dweight, dbias, dscale, dbeta, None, None, None, None


def _number(tensor: torch.Tensor | None) -> np.ndarray:
    """The memory of a tensor of one element, (1,); a number that is not used in place of None."""
    return np.ones(1, np.float32) if tensor is None else memory(tensor)


def _rows(x: torch.Tensor) -> np.ndarray:
    """The memory of `x` (N, C, H, W) with the channels last: rows of the channels of a pixel, or of several."""
    length = x.shape[1]
    while x.numel() % (2 * length) == 0 and 2 * length <= SIDE_BY_SIDE:
        length *= 2
    return memory(x).reshape(-1, length)
