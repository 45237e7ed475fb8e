"""Counts by the rules of the MicroNet challenge (NeurIPS 2019), every operation of the graph."""
from __future__ import annotations

from dataclasses import dataclass
from math import prod

from modules.adjustable.scoring.cost import Shape
from modules.deploy.graph.graph import Graph, Node, WeightNode

# Multiplications and additions for each value that passes an activation.
_ACTIVATIONS = {"relu": (1, 0), "relu6": (1, 0), "swish": (3, 1), "hswish": (3, 1), "sigmoid": (2, 1),
                "hard_sigmoid": (2, 1)}


@dataclass(frozen=True)
class Count:
    """Storage and operations of one node for an image."""

    node: Node
    weights: int = 0
    biases: int = 0
    multiplications: int = 0
    additions: int = 0


def count_operations(graph: Graph, shapes: dict[str, Shape]) -> list[Count]:
    """The `Count` of every node, batch norm folded into biases.

    A convolution of n products for each value multiplies n times and adds n - 1 times, once more for a bias. A mean of
    r rows and columns multiplies once and adds r^2 - 1 times for each channel. The sum with a shortcut adds once for
    each value; in blocks with squeeze-and-excitation the challenge's notebook takes the width of the expanded tensor
    for it, and so does this.
    """
    gated = {_block(node.output): shapes[node.output][0] for node in graph.nodes if node.op == "mul"}
    return [_count(node, shapes, gated.get(_block(node.output))) for node in graph.nodes]


def _block(name: str) -> tuple[str, ...]:
    return tuple(name.split(".")[:2])


def _count(node: Node, shapes: dict[str, Shape], expanded: int | None) -> Count:
    channels, height, width = shapes[node.output]
    values = channels * height * width
    if isinstance(node, WeightNode):
        products, biased = prod(node.weight.shape[1:]), node.bias_from != "nothing"
        return Count(node, node.weight.size, len(node.bias) * biased, products * values,
                     (products - 1 + biased) * values)
    if node.op == "act":
        multiplications, additions = _ACTIVATIONS[node.kind]
        return Count(node, 0, 0, multiplications * values, additions * values)
    if node.op == "pool":
        _, rows, columns = shapes[node.inputs[0]]
        return Count(node, 0, 0, channels, (rows * columns - 1) * channels)
    if node.op == "mul":
        return Count(node, 0, 0, values)
    return Count(node, 0, 0, 0, (expanded or channels) * height * width)
