"""Layers that hold the largest weight and run a slice of it: the first channels, the centre of the kernel."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from modules.modeling.ops.batch_norm import Normed
from modules.modeling.ops.convolve import convolve, convolve_same
from modules.modeling.ops.op import QConv, QLinear


def slice_like(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The part of `tensor` that a configuration of `shape` uses: leading entries of the first two axes, centre of the
    others. Example: (64, 32, 7, 7) for `shape` (48, 32, 3, 3) gives (48, 32, 3, 3). `tensor` itself is returned if it
    has that shape."""
    if tensor.shape == shape:
        return tensor
    index = [slice(size) if axis < 2 else slice((full - size) // 2, (full - size) // 2 + size)
             for axis, (full, size) in enumerate(zip(tensor.shape, shape, strict=True))]
    return tensor[tuple(index)].contiguous()


class DynamicQConv(QConv):
    """Elastic `QConv`. It uses as many input channels as the input has; a depthwise one as many output channels,
    too. With `same` it pads as TensorFlow does."""

    same = False

    def forward(self, x: torch.Tensor | Normed, cout: int | None = None, kernel: int | None = None) -> torch.Tensor:
        """Convolve (N, C, H, W) with the slice for `cout` output channels and a `kernel` x `kernel` window: (8, 16, 32,
        32) gives (8, 24, 32, 32) for `cout` 24."""
        cin, kernel, cout = x.shape[1], kernel or self.kernel_size[0], cout or self.out_channels
        groups, per_group = (cin, 1) if self.groups > 1 else (1, cin)
        cout = cin if groups > 1 else cout
        weight = slice_like(self.weight, (cout, per_group, kernel, kernel))
        bias = None if self.bias is None else self.bias[:cout]
        pad = convolve_same if self.same else convolve
        return pad(self.quantize_input(x), self.quantize_weight(weight), bias, self.stride, groups)


class DynamicQLinear(QLinear):
    """Elastic `QLinear`."""

    def forward(self, x: torch.Tensor, cout: int | None = None) -> torch.Tensor:
        """Map (N, C) to (N, cout) with the leading rows and columns, such as (8, 512) to (8, 1000)."""
        cout = cout or self.out_features
        weight = slice_like(self.weight, (cout, x.shape[1]))
        bias = None if self.bias is None else self.bias[:cout]
        return F.linear(self.quantize_input(x), self.quantize_weight(weight), bias)
