"""The only interpreter of a `BlockSpec`: order of layers, squeeze-and-excitation, shortcut, activations."""
from __future__ import annotations

from typing import Any, Protocol

from modules.modeling.spec import BlockSpec, ConvSpec, LinearSpec, PoolSpec, SESpec


class Backend(Protocol):
    """A consumer of blocks, with a method for each operation. `x` is the consumer's own value of a tensor.

    Every result is a tensor of the network; `name` is its name within the block.
    """

    def conv(self, x: Any, layer: ConvSpec) -> Any:
        """Convolution(s) and norm; the tensor is called `layer.name`."""

    def act(self, x: Any, kind: str, name: str) -> Any:
        """Activation of `kind`: relu, relu6, hswish, swish, hard_sigmoid or sigmoid."""

    def pool(self, x: Any, name: str) -> Any:
        """Mean over height and width, kept as 1 x 1."""

    def mul(self, x: Any, gate: Any, name: str) -> Any:
        """Product of `x` with one gate value per channel."""

    def add(self, shortcut: Any, x: Any, name: str) -> Any:
        """Sum of the shortcut and the branch."""

    def linear(self, x: Any, layer: LinearSpec) -> Any:
        """Classifier on a 1 x 1 feature map."""


def walk(block: BlockSpec, backend: Backend, x: Any) -> Any:
    """Run `block` on `x` through `backend` and return its output."""
    y = x
    for layer in block.main:
        if layer.used:
            y = _layer(layer, backend, y)
    if block.residual:
        shortcut = x
        if block.downsample is not None and block.downsample.used:
            shortcut = backend.conv(x, block.downsample)
        y = backend.add(shortcut, y, "add")
    if block.post_act:
        y = backend.act(y, block.post_act, "out")
    return y


def _layer(layer, backend: Backend, x):
    if isinstance(layer, ConvSpec):
        y = backend.conv(x, layer)
        return backend.act(y, layer.act, f"{layer.name}.act") if layer.act else y
    if isinstance(layer, SESpec):
        gate = backend.pool(x, f"{layer.name}.pool")
        for conv in (layer.reduce, layer.expand):
            gate = _layer(conv, backend, gate)
        return backend.mul(x, gate, f"{layer.name}.mul")
    if isinstance(layer, PoolSpec):
        return backend.pool(x, layer.name)
    return backend.linear(x, layer)
