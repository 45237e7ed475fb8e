"""The inference graph of a subnet: batch norm folded, tensors named, no torch modules left."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Quantizer:
    """An unsigned 8-bit code: value = (code - zero_point) * scale."""

    scale: np.float32
    zero_point: int


@dataclass
class Node:
    """One operation. `op`: conv, linear, act, pool, mul or add; `output` is the name of its result."""

    op: str
    inputs: tuple[str, ...]
    output: str
    kind: str = ""  # of an activation


@dataclass
class WeightNode(Node):
    """A convolution or linear layer.

    `weight` and `bias` are float32 with batch norm folded in. `codes` (int8, -127 ... 127) and `scales` (one per output
    channel) are the trained weight: `codes * scales` equals `weight` after quantisation. `quantizer` is that of the
    input. All three are None in a float graph.
    """

    weight: np.ndarray = None
    bias: np.ndarray = None
    stride: int = 1
    groups: int = 1
    codes: np.ndarray | None = None
    scales: np.ndarray | None = None
    quantizer: Quantizer | None = None


@dataclass
class Graph:
    """Nodes in order of execution, from an input of (channels, height, width) to the last node's output.

    `ranges` holds (min, max) of tensors seen in calibration.
    """

    nodes: list[Node]
    input_shape: tuple[int, int, int]
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def consumers(self) -> dict[str, list[Node]]:
        """For each tensor the nodes that read it."""
        consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                consumers.setdefault(name, []).append(node)
        return consumers
