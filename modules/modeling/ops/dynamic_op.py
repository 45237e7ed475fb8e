"""Layers that hold the largest weight and run a slice of it: the first channels, the centre of the kernel."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.ops import batch_norm
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

    def forward(self, x: torch.Tensor, cout: int | None = None, kernel: int | None = None) -> torch.Tensor:
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


class DynamicBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its first channels for inputs with fewer channels.

    With `synchronized`, training uses the statistics of all processes' images, on a CPU too (torch's SyncBatchNorm
    refuses CPU tensors).
    """

    synchronized = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W), such as (8, 24, 56, 56), with C at most `num_features`."""
        n = x.shape[1]
        if self.synchronized and self.training:
            return self._synchronized(x, n)
        loops = self.training and batch_norm.looped(x)
        if n == self.num_features and not loops:
            return super().forward(x)
        factor = self.momentum or 0.0
        if self.training:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative average, for batch-norm calibration
                factor = 1.0 / float(self.num_batches_tracked)
        if loops:
            return batch_norm.batch_norm(x, self.running_mean[:n], self.running_var[:n], self.weight[:n],
                                         self.bias[:n], factor, self.eps)
        return F.batch_norm(x, self.running_mean[:n], self.running_var[:n], self.weight[:n], self.bias[:n],
                            self.training, factor, self.eps)

    def _synchronized(self, x: torch.Tensor, n: int) -> torch.Tensor:
        from torch.distributed.nn.functional import all_reduce

        # Sums around a value near the mean: far from it, the sum of squares would lose its digits.
        pivot = self.running_mean[:n].clone()
        shifted = x - pivot.view(-1, 1, 1)
        count = pivot.new_tensor([x.numel() / n])  # a half format holds no such number
        sums = all_reduce(torch.cat((shifted.sum((0, 2, 3)), (shifted * shifted).sum((0, 2, 3)), count)))
        count, mean = sums[-1].detach(), sums[:n] / sums[-1]
        var = sums[n:-1] / sums[-1] - mean * mean
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean[:n].lerp_(mean + pivot, factor)
            self.running_var[:n].lerp_(var * count / (count - 1), factor)
        scale = self.weight[:n] * (var + self.eps).rsqrt()
        return (shifted * scale.view(-1, 1, 1) + (self.bias[:n] - mean * scale).view(-1, 1, 1)).to(x.dtype)
