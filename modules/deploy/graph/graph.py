"""The inference graph of a subnet: batch norm folded, tensors named, no torch modules left."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from modules.modeling.codes import integer_zero_point

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Quantizer:
    """An unsigned 8-bit code: value = (code - zero_point) * scale."""

    scale: np.float32
    zero_point: int

    @classmethod
    def from_range(cls, low: float, high: float) -> Quantizer:
        """The quantiser whose codes span `low` ... `high`, widened to hold zero."""
        low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
        scale = np.float32((high - low) / 255)
        return cls(scale, int(integer_zero_point(scale, low, 255)))

    def codes(self, values: np.ndarray) -> np.ndarray:
        """The uint8 codes of float32 `values` of any shape: divided, rounded half to even, saturated."""
        return np.clip(np.round(values / np.float32(self.scale)) + self.zero_point, 0, 255).astype(np.uint8)

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The float32 values of `codes` of any shape."""
        return (codes.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)


PIXELS = Quantizer(np.float32(1), 0)  # of bytes


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

    `weight` (out, in / groups, k, k), such as (64, 32, 3, 3), and `bias` (out,) are float32 with batch norm folded in.
    `codes` (int8, -127 ... 127) and `scales` (out,) are the trained weight: `codes * scales` equals `weight` after
    quantisation. `quantizer` codes the input. All three are None in a float graph. `bias_from` names the
    origin of the bias: a folded "norm", the "layer" itself, or "nothing" (it is zero then). `same`: strided windows are
    placed as TensorFlow pads (`borders`). With 4 `bits` the codes lie within -7 ... 7.
    """

    weight: np.ndarray = None
    bias: np.ndarray = None
    stride: int = 1
    groups: int = 1
    bias_from: str = "layer"
    same: bool = False
    bits: int = 8
    codes: np.ndarray | None = None
    scales: np.ndarray | None = None
    quantizer: Quantizer | None = None

    def bias_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """The bias (out,) as int32 at the scale input * weight, and that scale (out,)."""
        # The product in float32, exactly: with any other bias scale onnxruntime keeps a float convolution.
        scale = np.float32(self.quantizer.scale) * self.scales
        return np.round(self.bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int32), scale


@dataclass
class Graph:
    """Nodes in order of execution, from an input of (channels, height, width) to the last node's output.

    `ranges` holds (low, high) from calibration for tensors without a trained quantiser. With `pixels` the input is
    bytes (height, width, channels); the first layer adds a channel of 255 to it. `quantizers` holds the trained
    quantisers of tensors that own one (placement "engine").
    """

    nodes: list[Node]
    input_shape: tuple[int, int, int]
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    quantizers: dict[str, Quantizer] = field(default_factory=dict)
    pixels: bool = False

    @property
    def int8(self) -> bool:
        """Whether the layers carry codes."""
        return any(isinstance(node, WeightNode) and node.codes is not None for node in self.nodes)

    @property
    def consumers(self) -> dict[str, list[Node]]:
        """For each tensor the nodes that read it."""
        consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                consumers.setdefault(name, []).append(node)
        return consumers
