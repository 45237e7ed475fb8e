"""Convolution and linear layers with LSQ+ quantisers for their input and weight."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.ops.lsq_plus import QBase


class QConv(QBase, nn.Conv2d):
    """`nn.Conv2d` with quantised input and weight; at 32 bits it is `nn.Conv2d`, bit for bit."""

    def __init__(self, *args, **kwargs):
        nn.Conv2d.__init__(self, *args, **kwargs)
        QBase.__init__(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(self.quantize_input(x), self.quantize_weight(self.weight), self.bias)


class QLinear(QBase, nn.Linear):
    """`nn.Linear` with quantised input and weight; at 32 bits it is `nn.Linear`, bit for bit."""

    def __init__(self, *args, **kwargs):
        nn.Linear.__init__(self, *args, **kwargs)
        QBase.__init__(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.quantize_input(x), self.quantize_weight(self.weight), self.bias)
