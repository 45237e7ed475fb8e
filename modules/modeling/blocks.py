"""The torch form of a block. One class serves supernets (largest layers, sliced) and subnets (exact layers)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.ops.dynamic_op import DynamicBatchNorm2d, DynamicQConv, DynamicQLinear
from modules.modeling.spec import BlockSpec, ConvSpec, LinearSpec, SESpec
from modules.modeling.walk import walk

ACTIVATIONS = {
    "relu": torch.relu_,
    "relu6": nn.functional.relu6,
    "hswish": F.hardswish,
    "swish": F.silu,
    "hard_sigmoid": F.hardsigmoid,
}


class ConvNorm(nn.Module):
    """The convolution (`conv`, or `dwconv` where depthwise) and norm of one `ConvSpec`.

    A stack of depthwise convolutions is a container: `dwconv0`, `dwconv1` ... in supernets, `0`, `1` ... in subnets,
    as published.
    """

    def __init__(self, spec: ConvSpec, elastic: bool):
        super().__init__()
        if spec.stack:
            convs = {f"dwconv{i}" if elastic else str(i): _conv(spec, stride) for i, stride in enumerate(spec.strides)}
            self.dwconv = nn.ModuleDict(convs)
        else:
            setattr(self, "dwconv" if spec.depthwise else "conv", _conv(spec, spec.stride))
        self.norm = DynamicBatchNorm2d(spec.cout)

    def forward(self, x: torch.Tensor, spec: ConvSpec) -> torch.Tensor:
        if spec.stack:
            for conv in list(self.dwconv.values())[: spec.stack]:
                x = conv(x)
        else:
            x = (self.dwconv if spec.depthwise else self.conv)(x, spec.cout, spec.kernel)
        return self.norm(x)


def _conv(spec: ConvSpec, stride: int) -> DynamicQConv:
    return DynamicQConv(spec.cin, spec.cout, spec.kernel, stride, spec.kernel // 2,
                        groups=spec.cin if spec.depthwise else 1, bias=spec.bias)


class Block(nn.Module):
    """A block with the layers of `spec`.

    Args:
        spec: the largest configuration (elastic) or the only one.
        elastic: build unused layers too, and use the published names of supernets.
    """

    def __init__(self, spec: BlockSpec, elastic: bool):
        super().__init__()
        self.spec = spec
        self.dropout_rate = 0.0
        for layer in spec.layers:
            if layer.used or elastic:
                self._add(layer, elastic)

    def _add(self, layer, elastic: bool) -> None:
        if isinstance(layer, ConvSpec):
            self.add_module(layer.name, ConvNorm(layer, elastic))
        elif isinstance(layer, SESpec):
            self.se = nn.Module()
            self.se.fc = nn.ModuleDict({"reduce": _conv(layer.reduce, 1), "expand": _conv(layer.expand, 1)})
        elif isinstance(layer, LinearSpec):
            self.add_module(layer.name, DynamicQLinear(layer.cin, layer.cout))

    def forward(self, x: torch.Tensor, spec: BlockSpec | None = None) -> torch.Tensor:
        """Run the configuration `spec`, the whole block by default, on (N, C, H, W)."""
        return walk(spec or self.spec, TorchOps(self), x)


class TorchOps:
    """Walk backend that runs the modules of `block`."""

    def __init__(self, block: Block):
        self.block = block

    def conv(self, x, layer: ConvSpec):
        module = self.block.get_submodule(layer.name)
        return module(x, layer) if layer.norm else module(x, layer.cout)

    def act(self, x, kind: str, name: str):
        return ACTIVATIONS[kind](x)

    def pool(self, x, name: str):
        return x.mean((2, 3), keepdim=True)

    def mul(self, x, gate, name: str):
        return x * gate

    def add(self, shortcut, x, name: str):
        return shortcut + x

    def linear(self, x, layer: LinearSpec):
        x = F.dropout(x.flatten(1), self.block.dropout_rate, self.block.training)
        return self.block.get_submodule(layer.name)(x, layer.cout)
