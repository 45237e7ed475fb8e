"""Places of quantisers in a graph: the quantised tensors, the tensor that decides the bits of a layer's input, and the
published names of layers and tensors.

Inverted bottlenecks between plain convolutions have the published names: Conv, expanded_conv_0 with expand, dws, se_1,
se_2 and project ..., Conv_1, output. Layers of other networks keep their own: stage0.0 with conv1, conv2 ...
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from modules.deploy.graph.graph import INPUT, OUTPUT, Graph, Node, WeightNode

PARTS = {"point_conv1": "expand", "depth_conv": "dws", "se.fc.reduce": "se_1", "se.fc.expand": "se_2",
         "point_conv2": "project"}
_ALONE, GATE = "conv", "se_2"
SMOOTH = ("swish", "hswish", "hard_sigmoid", "sigmoid")


@dataclass(frozen=True)
class Place:
    """The block of a layer, and its part of it ("" if it is the block's only layer)."""

    block: str
    part: str = ""

    @property
    def scope(self) -> str:
        """Both: expanded_conv_1/dws, or Conv."""
        return f"{self.block}/{self.part}" if self.part else self.block


def layer_places(nodes: Sequence[Node]) -> dict[str, Place]:
    """The place of every layer, by the name of its output."""
    names = [node.output for node in nodes if isinstance(node, WeightNode) and node.output != OUTPUT]
    blocks = [(block, [name.split(".", 2)[2] for name in members])
              for block, members in groupby(names, key=lambda name: ".".join(name.split(".")[:2]))]
    published = all(layers == [_ALONE] or all(layer in PARTS for layer in layers) for _, layers in blocks)
    places, alone, expanded = {}, 0, 0
    for block, layers in blocks:
        if not published:
            places |= {f"{block}.{layer}": Place(block, layer) for layer in layers}
        elif layers == [_ALONE]:
            places[f"{block}.{_ALONE}"] = Place(f"Conv_{alone}" if alone else "Conv")
            alone += 1
        else:
            places |= {f"{block}.{layer}": Place(f"expanded_conv_{expanded}", PARTS[layer]) for layer in layers}
            expanded += 1
    return places | {node.output: Place("output") for node in nodes if node.output == OUTPUT}


def owner(tensor: str, nodes: Sequence[Node]) -> str:
    """The layer whose "act" the tensor is: the last one before it, along the branch of a sum and the gate of a product;
    INPUT of the image."""
    producers = {node.output: node for node in nodes}
    while tensor != INPUT and not isinstance(producers[tensor], WeightNode):
        tensor = producers[tensor].inputs[-1]
    return tensor


class Placement:
    """Quantised tensors of `graph`.

    Every tensor that layers read has a quantiser whose bits are learned (`learned`). The input of a smooth activation
    has one of fixed bits (`fixed`). The image has none. A sum that layers read has none either, but its branches have,
    as published. With `sums` the sum and the image have one, and the branches have none, as engines need it.
    """

    def __init__(self, graph: Graph, sums: bool = False):
        self.nodes: Sequence[Node] = graph.nodes
        self._sums = {} if sums else {node.output: node for node in graph.nodes if node.op == "add"}
        consumers = graph.consumers
        by_layers = [name for name, readers in consumers.items() if any(isinstance(r, WeightNode) for r in readers)]
        quantised = {part for name in by_layers for part in self._parts(name)}
        self.learned = [name for name in consumers if name in quantised]
        self.fixed = [name for name, readers in consumers.items()
                      if name not in quantised and name != INPUT and any(r.kind in SMOOTH for r in readers)]
        # By the layer whose "act" the tensor is in the published files.
        self.acts = {owner(name, self.nodes): name for name in reversed(self.learned)}

    def _parts(self, name: str) -> set[str]:
        """The tensors that are quantised for a layer that reads `name`."""
        if name in self._sums:
            return {part for addend in self._sums[name].inputs for part in self._parts(addend)}
        return set() if name == INPUT else {name}

    def source(self, node: WeightNode) -> str:
        """The tensor whose bits meet the weights of `node`: its input, or the branch of a sum."""
        name = node.inputs[0]
        while name in self._sums:
            name = self._sums[name].inputs[-1]
        return name
