"""Channels of zeros that widen a layer to a width with fast integer kernels in onnxruntime.

On x86 its fast convolutions on blocks of channels (MLAS ConvSym) take a depthwise layer if its channels are a multiple
of 16. They take a dense layer with 16 output channels or more and a multiple of 4 input channels. Other layers run two
to three times slower. A channel of zero weights that only zero weights read changes no result.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from modules.deploy.graph.graph import INPUT, Graph, Node, WeightNode

_BLOCK, _INPUT_BLOCK = 16, 4


def pad_channels(graph: Graph) -> Graph:
    """`graph` with layers widened if that makes them faster. The results stay exactly the same."""
    shared = _same_channels(graph)
    widths = _padded_widths(graph, shared)
    nodes = []
    for node in graph.nodes:
        if isinstance(node, WeightNode):
            cin = widths.get(shared[node.inputs[0]], node.weight.shape[1] * node.groups)
            if node.inputs[0] == INPUT and node.groups == 1:
                cin = -(-cin // _INPUT_BLOCK) * _INPUT_BLOCK
            node = _widen(node, cin, widths.get(shared[node.output], len(node.bias)))
        nodes.append(node)
    return replace(graph, nodes=nodes)


def _same_channels(graph: Graph) -> dict[str, str]:
    """For each tensor, a representative of the tensors that must have the same number of channels."""
    parent: dict[str, str] = {}

    def find(tensor: str) -> str:
        while parent.setdefault(tensor, tensor) != tensor:
            tensor = parent[tensor]
        return tensor

    for node in graph.nodes:
        find(node.output)
        for name in node.inputs:
            find(name)
            if not _mixes_channels(node):
                parent[find(name)] = find(node.output)
    return {tensor: find(tensor) for tensor in parent}


def _mixes_channels(node: Node) -> bool:
    return isinstance(node, WeightNode) and node.groups == 1


def _padded_widths(graph: Graph, shared: dict[str, str]) -> dict[str, int]:
    """The new width of each group of tensors that is widened; the graph's input and output keep their widths."""
    fixed = {shared[INPUT], shared[graph.nodes[-1].output]}
    widths: dict[str, int] = {}
    for node in graph.nodes:
        if isinstance(node, WeightNode) and shared[node.output] not in fixed:
            width = len(node.bias)
            if node.groups > 1 or width < _BLOCK:
                widths[shared[node.output]] = -(-width // _BLOCK) * _BLOCK
    return widths


def _widen(node: WeightNode, cin: int, cout: int) -> WeightNode:
    more_out, more_in = cout - len(node.bias), 0 if node.groups > 1 else cin - node.weight.shape[1]
    if not more_out and not more_in:
        return node
    grow = [(0, more_out), (0, more_in)] + [(0, 0)] * (node.weight.ndim - 2)
    return replace(node, weight=np.pad(node.weight, grow), bias=np.pad(node.bias, (0, more_out)),
                   groups=node.groups if node.groups == 1 else cout, codes=np.pad(node.codes, grow),
                   scales=np.pad(node.scales, (0, more_out), mode="edge"))
