"""Blocks as graphs in nn-Meter's own form ("nnmeter-ir"), from which its predictors find their kernels."""
from __future__ import annotations

from modules.modeling.spec import BlockArgs, LinearSpec, build_block, output_size
from modules.modeling.walk import walk

Tensor = tuple[str, tuple[int, int, int]]  # the node it comes from; height, width, channels

# The operations of an activation; nn-Meter's fusion rules join them again.
_RELU, _HSWISH = ("relu",), ("add", "relu", "div", "mul")
_ACTS = {"relu": _RELU, "relu6": _RELU, "hswish": _HSWISH, "swish": ("swish",), "hard_sigmoid": ("hardsigmoid",),
         "sigmoid": ("sigmoid",)}


class NnMeterOps:
    """Walk backend that collects nodes; `graph` maps names to nodes."""

    def __init__(self):
        self.graph: dict[str, dict] = {}

    def node(self, kind: str, name: str, inputs: list[Tensor], out: tuple[int, int, int], **attr) -> Tensor:
        """Add an operation and return its output."""
        self.graph[name] = {
            "attr": {"name": name, "type": kind, "attr": attr, "input_shape": [[1, *shape] for _, shape in inputs],
                     "output_shape": [[1, *out]]},
            "inbounds": [source for source, _ in inputs], "outbounds": []}
        for source, _ in inputs:
            self.graph[source]["outbounds"].append(name)
        return name, out

    def conv(self, x: Tensor, layer) -> Tensor:
        for i, stride in enumerate(layer.strides):
            height, width, _ = x[1]
            out = (output_size(height, stride), output_size(width, stride), layer.cout)
            x = self.node("dwconv" if layer.depthwise else "conv", f"{layer.name}.{i}", [x], out,
                          ks=[layer.kernel, layer.kernel], strides=[stride, stride])
        return self.node("bn", f"{layer.name}.bn", [x], x[1]) if layer.norm else x

    def act(self, x: Tensor, kind: str, name: str) -> Tensor:
        y = x
        for i, operation in enumerate(_ACTS[kind]):
            gated = operation == "mul"
            y = self.node(operation, f"{name}.{i}", [x, y] if gated else [y], x[1])
        return y

    def pool(self, x: Tensor, name: str) -> Tensor:
        return self.node("gap", name, [x], (1, 1, x[1][2]))

    def mul(self, x: Tensor, gate: Tensor, name: str) -> Tensor:
        return self.node("mul", name, [x, gate], x[1])

    def add(self, shortcut: Tensor, x: Tensor, name: str) -> Tensor:
        return self.node("add", name, [shortcut, x], x[1])

    def linear(self, x: Tensor, layer: LinearSpec) -> Tensor:
        return self.node("fc", layer.name, [x], (1, 1, layer.cout))


def nn_meter_graph(block: BlockArgs, hw: tuple[int, int]) -> dict[str, dict]:
    """`block` on an input of `hw` pixels as nn-Meter's graph; shapes are (1, height, width, channels)."""
    ops = NnMeterOps()
    walk(build_block(block), ops, ops.node("Placeholder", "input", [], (*hw, block.cin)))
    return ops.graph
