"""A network's cost at given bits, part by part, by one of three rules. For networks that need not be trained."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from modules.adjustable.files import read_model_info, read_quant_info
from modules.adjustable.placement import Placement, layer_places
from modules.adjustable.scoring.cost import (
    FIXED,
    FULL,
    MICRONET,
    SWISH_OPERATIONS,
    layer_costs,
    pair_bits,
    tensor_shapes,
)
from modules.adjustable.scoring.counting import Count, count_operations
from modules.deploy.graph.graph import INPUT, Graph, WeightNode

_GIGA = 1e9


@dataclass(frozen=True)
class Part:
    """A part of the cost: numbers of parameters and operations, mean bits of weight and input (None: it has none),
    storage in units of 32 bits, and work in units of operations of 32 bits (of the metric bitops: in bit operations).
    """

    name: str
    parameters: int = 0
    operations: int = 0
    weight_bits: float | None = None
    input_bits: float | None = None
    storage: float = 0.0
    work: float = 0.0


@dataclass(frozen=True)
class Widths:
    """Bits: (channels,) of every layer's weight and of every quantised tensor; of swish operations and of biases."""

    weights: dict[str, torch.Tensor]
    acts: dict[str, torch.Tensor]
    swish: float = FIXED
    bias: float = FIXED


class NetworkCost:
    """Counts `graph`; the numbers of its weights do not matter.

    Args:
        model_info: a model_info.json whose counts take the place of the network's, in the repository's rule.
    """

    def __init__(self, graph: Graph, model_info: str | Path = ""):
        self.graph, self.placement, self.model_info = graph, Placement(graph), model_info
        self.shapes = tensor_shapes(graph.nodes, graph.input_shape)
        self.places = layer_places(graph.nodes)
        self.channels = {name: shape[0] for name, shape in self.shapes.items()}

    def uniform(self, weight: float, act: float, swish: float, bias: float) -> Widths:
        """The same bits everywhere."""
        return Widths({layer: torch.full((self.channels[layer],), float(weight)) for layer in self.places},
                      {name: torch.full((self.channels[name],), float(act)) for name in self.placement.learned},
                      swish, bias)

    def read(self, path: str | Path, swish: float, bias: float) -> Widths:
        """The bits of a quant_info.json; UserError as `read_quant_info`."""
        weights, acts = ({name: torch.from_numpy(bits) for name, bits in part.items()}
                         for part in read_quant_info(path, self.placement, self.channels))
        return Widths(weights, acts, swish, bias)

    def parts(self, widths: Widths, metric: str = "repository", pairing: str = "all") -> list[Part]:
        """Every part of the cost, in order of execution."""
        if metric == "official":
            return [self._counted(count, widths, pairing) for count in count_operations(self.graph, self.shapes)]
        costs, biases, smooth = layer_costs(self.graph.nodes, self.shapes, lambda node: self._bits(node, widths))
        if self.model_info:
            costs, biases = read_model_info(self.model_info, self.placement, costs)
        if metric == "bitops":
            return [self._part(cost, _bit_operations(cost)) for cost in costs]
        return [*(self._part(cost, float(cost.operations(pairing=pairing))) for cost in costs),
                Part("biases", biases, storage=biases * widths.bias / FULL),
                Part("swish", operations=SWISH_OPERATIONS * smooth, input_bits=widths.swish,
                     work=SWISH_OPERATIONS * smooth * widths.swish / FULL)]

    def _bits(self, node: WeightNode, widths: Widths) -> tuple[torch.Tensor, torch.Tensor]:
        source = self.placement.source(node)
        image = torch.full((self.channels[INPUT],), float(FIXED))
        return widths.weights[node.output], image if source == INPUT else widths.acts[source]

    def _part(self, cost, work: float) -> Part:
        inputs = FIXED if cost.input_bits is None else float(cost.input_bits.mean())
        return Part(self.places[cost.name].scope, cost.parameters, 2 * cost.macs, float(cost.weight_bits.mean()),
                    inputs, float(cost.storage), work)

    def _counted(self, count: Count, widths: Widths, pairing: str) -> Part:
        node, operations = count.node, count.multiplications + count.additions
        if not isinstance(node, WeightNode):
            return Part(node.output, operations=operations, input_bits=widths.swish,
                        work=count.multiplications * widths.swish / FULL + count.additions)
        weight, inputs = self._bits(node, widths)
        product = float(pair_bits(weight, inputs, node.groups > 1, pairing))
        return Part(self.places[node.output].scope, count.weights + count.biases, operations, float(weight.mean()),
                    float(inputs.mean()), (count.weights * float(weight.mean()) + count.biases * widths.bias) / FULL,
                    count.multiplications * product / FULL + count.additions)


def _bit_operations(cost) -> float:
    """Multiply-accumulates times the bits of both operands."""
    if cost.input_bits is None:
        return cost.macs * float(cost.weight_bits.mean()) * FIXED
    if cost.paired:
        return cost.macs * float((cost.weight_bits * cost.input_bits).mean())
    return cost.macs * float(cost.weight_bits.mean()) * float(cost.input_bits.mean())


def part_score(part: Part, metric: str) -> float:
    """A part's share of the score: relative to MobileNetV2-1.4's storage and operations, or 10^9 bit operations."""
    if metric == "bitops":
        return part.work / _GIGA
    return part.storage / MICRONET[0] + part.work / MICRONET[1]


def total(parts: list[Part]) -> Part:
    """The sum of all parts."""
    return Part("in all", *(sum(getattr(part, name) for part in parts) for name in ("parameters", "operations")),
                storage=sum(part.storage for part in parts), work=sum(part.work for part in parts))


def table(parts: list[Part], metric: str) -> list[dict]:
    """Rows for a table or a csv file: the parts and their sum."""
    return [{"layer": part.name, "parameters": part.parameters, "operations": part.operations,
             "weight_bits": _shown(part.weight_bits), "input_bits": _shown(part.input_bits),
             "storage_mb": f"{part.storage * 4 / 1e6:.4f}", "score": f"{part_score(part, metric):.6f}"}
            for part in (*parts, total(parts))]


def _shown(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.2f}"
