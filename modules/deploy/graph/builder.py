"""The nodes of an inference graph from block specs. A `Weights` object supplies the weights.

No torch code: latency profiling builds graphs of untrained blocks.
"""
from __future__ import annotations

import zlib
from typing import Protocol

import numpy as np

from modules.deploy.graph.graph import INPUT, OUTPUT, Graph, Node, Quantizer, WeightNode
from modules.modeling.codes import weight_bounds
from modules.modeling.spec import BlockSpec, ConvSpec, LinearSpec
from modules.modeling.walk import walk


class Weights(Protocol):
    """A source of weights."""

    def fill(self, node: WeightNode, block: str, layer: ConvSpec | LinearSpec, index: int) -> None:
        """Set the weight fields of `node`, the `index`-th convolution of `layer` in the block called `block`."""


class GraphOps:
    """Walk backend whose value is a tensor name; it appends nodes to a list."""

    def __init__(self, prefix: str, weights: Weights, nodes: list[Node]):
        self.prefix, self.weights, self.nodes = prefix, weights, nodes

    def _append(self, node: Node) -> str:
        self.nodes.append(node)
        return node.output

    def _name(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def conv(self, x, layer: ConvSpec):
        for i, stride in enumerate(layer.strides):
            last = i == len(layer.strides) - 1
            node = WeightNode("conv", (x,), self._name(layer.name if last else f"{layer.name}.{i}"), stride=stride,
                              groups=layer.cin if layer.depthwise else 1, same=layer.same,
                              bias_from=_bias_from(layer, last))
            self.weights.fill(node, self.prefix, layer, i)
            x = self._append(node)
        return x

    def linear(self, x, layer: LinearSpec):
        node = WeightNode("linear", (x,), OUTPUT)
        self.weights.fill(node, self.prefix, layer, 0)
        return self._append(node)

    def act(self, x, kind, name):
        return self._append(Node("act", (x,), self._name(name), kind))

    def pool(self, x, name):
        return self._append(Node("pool", (x,), self._name(name)))

    def mul(self, x, gate, name):
        return self._append(Node("mul", (x, gate), self._name(name)))

    def add(self, shortcut, x, name):
        return self._append(Node("add", (shortcut, x), self._name(name)))


def build_graph(blocks: list[tuple[str, BlockSpec]], weights: Weights, input_shape: tuple[int, int, int]) -> Graph:
    """The graph of `blocks`, run one after the other on an input of (channels, height, width)."""
    nodes: list[Node] = []
    x = INPUT
    for prefix, block in blocks:
        x = walk(block, GraphOps(prefix, weights, nodes), x)
    return Graph(nodes, input_shape)


def _bias_from(layer: ConvSpec, last: bool) -> str:
    if layer.norm:
        return "norm" if last else "nothing"
    return "layer" if layer.bias else "nothing"


class SyntheticWeights:
    """Random weights and plausible quantisers, for graphs that are only timed. The same name gives the same numbers.

    Codes fill the range of `bits` bits, as trained ones do: on x86 without VNNI onnxruntime has quicker kernels for
    weights within 64 codes of 0.
    """

    def __init__(self, int8: bool = True, bits: int = 8):
        self.int8, self.bits = int8, bits

    def fill(self, node: WeightNode, block: str, layer, index: int) -> None:
        rng = np.random.default_rng(zlib.crc32(node.output.encode()))
        shape = layer.weight_shape if isinstance(layer, ConvSpec) else (layer.cout, layer.cin)
        low, high = weight_bounds(self.bits)
        # Uniform codes have this standard deviation; with this scale the variance of the signal stays about constant.
        deviation = np.sqrt(high * (high + 1) / 3)
        scale = np.float32(1 / (deviation * np.sqrt(np.prod(shape[1:]))))
        codes = rng.integers(low, high + 1, shape, dtype=np.int8)
        codes.flat[0] = high
        node.weight = codes * scale
        node.bias = np.zeros(layer.cout, np.float32)
        if self.int8:
            node.codes, node.scales = codes, np.full(layer.cout, scale)
            # Two layers that read one tensor hold two quantisers of it, as after training.
            node.quantizer = Quantizer(np.float32(rng.uniform(3.9, 4.1) / 255), 0)


class AnyRange(dict):
    """Ranges of a graph that is only timed: every tensor has the range of a ReLU's output."""

    def __missing__(self, name: str) -> tuple[float, float]:
        return (0.0, 4.0)
