"""The inference graph of an untrained subnet."""
from __future__ import annotations

from modules.deploy.graph.builder import AnyRange, SyntheticWeights, build_graph
from modules.deploy.graph.graph import Graph
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.superspace import INPUT_CHANNELS


def untrained_graph(space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool, num_classes: int = 1000,
                    weight_bits: int = 8) -> Graph:
    """The graph of subnet `choice` with random weights, of `weight_bits` bits if `int8`, and plausible ranges."""
    spec = resolve(space, choice, num_classes)
    graph = build_graph(list(spec.blocks), SyntheticWeights(int8, weight_bits),
                        (INPUT_CHANNELS, spec.resolution, spec.resolution))
    graph.ranges = AnyRange()
    return graph
