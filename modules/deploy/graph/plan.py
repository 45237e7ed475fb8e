"""The steps of an engine for an inference graph, and the form of each tensor: codes or float.

The ONNX writer emits these steps and the reference executor computes them: both mean the same network.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modules.deploy.graph.graph import INPUT, PIXELS, Graph, Node, Quantizer, WeightNode
from modules.modeling.placement import GATE, GATE_STEPS, HARD_SIGMOID_SHIFT, HARD_SIGMOID_STEP, SIGMOID, gate_name

FUSED = ("relu", "relu6")  # activations that saturation and a clip of codes replace
GATE_CODES = Quantizer(GATE_STEPS[GATE], 0)
LOGISTIC_CODES = Quantizer(GATE_STEPS[SIGMOID], 0)
_COVERED = 0.75  # share of the calibrated range that trained codes must span to replace it
_SHIFTED = Quantizer(HARD_SIGMOID_STEP, 0)  # codes of x + 3; read by GATE_CODES they are hard_sigmoid(x)
# Inputs worth coding. Below the first and above the second number an activation is constant or linear.
USEFUL_INPUT = {"hswish": (-3.0, np.inf), "swish": (-10.0, np.inf), "hard_sigmoid": (-3.0, 3.0),
                "sigmoid": (-6.25, 6.25)}


@dataclass(frozen=True)
class Operand:
    """A value that a step reads. `quantizer` gives the meaning of its codes there; None: it is float."""

    name: str
    quantizer: Quantizer | None = None


@dataclass(frozen=True)
class Step:
    """One operation of the engine. `quantizer` codes its result; None: the result is float.

    On the values of the operands, `op` is conv, linear, act (of `kind`), pool, mul or add, or `quantize`, which only
    codes. On plain codes, `op` is `clip` (between `bounds`), `pad` (to `channels` channels, the new ones zero) or
    `image` (from bytes with the channels last to `channels` channels, the new one 255).
    """

    op: str
    inputs: tuple[Operand, ...]
    output: str
    quantizer: Quantizer | None = None
    kind: str = ""
    node: WeightNode | None = None
    bounds: tuple[int, int] = (0, 255)
    channels: int = 0


@dataclass(frozen=True)
class Plan:
    """Steps in order of execution; `values` gives the place and the codes of each tensor of the graph."""

    steps: tuple[Step, ...]
    values: dict[str, Operand]
    output: Operand
    input_shape: tuple[int, int, int]
    pixels: bool = False


def make_plan(graph: Graph) -> Plan:
    """The steps of `graph`: in float, or in integers if its layers carry codes."""
    return (_Int8Planner if graph.int8 else _Planner)(graph).plan()


class _Planner:
    """Every node is a step on float values."""

    def __init__(self, graph: Graph):
        self.graph, self.consumers = graph, graph.consumers
        self.steps: list[Step] = []
        self.values = {INPUT: Operand(INPUT)}

    def plan(self) -> Plan:
        """Take all nodes."""
        if self.graph.pixels:
            self.values[INPUT] = self.step("image", [Operand(INPUT, PIXELS)], "image", PIXELS,
                                           channels=self.graph.input_shape[0] + 1)
        for node in self.graph.nodes:
            if node.output not in self.values:
                self.take(node)
        return Plan(tuple(self.steps), self.values, self.values[self.graph.nodes[-1].output], self.graph.input_shape,
                    self.graph.pixels)

    def take(self, node: Node) -> None:
        """Append the steps of `node`."""
        self.values[node.output] = self.step(
            node.op, [self.values[name] for name in node.inputs], node.output, kind=node.kind, node=_layer(node))

    def step(self, op: str, inputs, output: str, quantizer: Quantizer | None = None, **fields) -> Operand:
        """Append one step."""
        self.steps.append(Step(op, tuple(inputs), output, quantizer, **fields))
        return Operand(output, quantizer)


class _Int8Planner(_Planner):
    """Convolutions, pools, products and activations on codes.

    A tensor that only layers of one trained quantiser read is written in its codes. A sum that only layers of different
    quantisers read is computed for each of them. A tensor that is also a shortcut takes the codes of a layer that reads
    it, if these span enough. Otherwise a sum stays float, as in training, and any other tensor takes the calibrated
    range.
    """

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.recoded: dict[tuple[str, Quantizer], Operand] = {}
        self.sums: dict[str, tuple] = {}  # sums that each reader gets in its own codes, straight from the operands

    def take(self, node):
        if node.output not in self.sums:
            getattr(self, f"take_{node.op}")(node)

    def trained(self, tensor: str) -> Quantizer | None:
        """Trained codes for `tensor` without loss to any of its readers; None if there are none."""
        if tensor in self.graph.quantizers:
            return self.graph.quantizers[tensor]
        readers = self.consumers.get(tensor, [])
        wanted = {getattr(node, "quantizer", None) for node in readers}
        return wanted.pop() if len(wanted) == 1 else None

    def quantizer(self, tensor: str) -> Quantizer:
        """The codes that an integer step writes `tensor` in."""
        return self.trained(tensor) or self.shared(tensor) or Quantizer.from_range(*self.graph.ranges[tensor])

    def shared(self, tensor: str) -> Quantizer | None:
        """The finest trained codes of a reader of `tensor` that are wide enough for its other readers."""
        low, high = (_COVERED * end for end in self.graph.ranges[tensor])
        wanted = {node.quantizer for node in self.consumers.get(tensor, []) if isinstance(node, WeightNode)}
        wide = [q for q in wanted if q.values(np.array([0]))[0] <= low and high <= q.values(np.array([255]))[0]]
        return min(wide, key=lambda quantizer: quantizer.scale, default=None)

    def read(self, tensor: str, quantizer: Quantizer) -> Operand:
        """`tensor` in the codes of `quantizer`."""
        value = self.values.get(tensor)
        if value and value.quantizer == quantizer:
            return value
        key = (tensor, quantizer)
        if key not in self.recoded:
            name = f"{tensor}.code{len(self.recoded)}"
            if tensor in self.sums:
                self.recoded[key] = self.coded(*self.sums[tensor], name, quantizer)
            else:
                self.recoded[key] = self.step("quantize", [value], name, quantizer)
        return self.recoded[key]

    def reader(self, tensor: str, kinds) -> Node | None:
        """The activation of one of `kinds` that is the only reader of `tensor`."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and readers[0].op == "act" and readers[0].kind in kinds else None

    def coded(self, node: Node, inputs, act: str, tensor: str, quantizer: Quantizer) -> Operand:
        """Append the step of `node` with the ReLU `act` after it, written as `tensor` in codes of `quantizer`."""
        bounds = _bounds(act, quantizer)
        name = tensor if bounds == (0, 255) else f"{tensor}.unclipped"
        value = self.step(node.op, inputs, name, quantizer, node=_layer(node))
        return value if name == tensor else self.step("clip", [value], tensor, quantizer, bounds=bounds)

    def write(self, node: Node, inputs) -> None:
        """Append the step of `node` with the ReLU after it, in the codes of their result."""
        tensor, act = self.target(node)
        self.values[tensor] = self.coded(node, inputs, act, tensor, self.quantizer(tensor))

    def target(self, node: Node) -> tuple[str, str]:
        """The result of `node` after the ReLU that saturation replaces, and the kind of that ReLU."""
        act = self.reader(node.output, FUSED)
        return (act.output, act.kind) if act else (node.output, "")

    def take_conv(self, node: WeightNode):
        x = self.read(node.inputs[0], node.quantizer)
        wanted = node.weight.shape[1] * node.groups
        if node.inputs[0] == INPUT and wanted > self.graph.input_shape[0] and not self.graph.pixels:
            x = self.step("pad", [x], f"{node.output}.padded", x.quantizer, channels=wanted)
        act = self.reader(node.output, ("swish", "hswish", "hard_sigmoid", "sigmoid"))
        if act is None:
            self.write(node, [x])
        elif act.kind == "hard_sigmoid":
            node = replace(node, bias=node.bias + HARD_SIGMOID_SHIFT)
            self.step("conv", [x], act.output, _SHIFTED, node=node)
            self.values[act.output] = Operand(act.output, GATE_CODES)
        else:
            quantizer = self.graph.quantizers.get(node.output) or before_activation(
                act.kind, *self.graph.ranges[node.output])
            self.values[node.output] = self.step("conv", [x], node.output, quantizer, node=node)

    def take_act(self, node: Node):
        x, name = self.values[node.inputs[0]], node.output
        gate = None
        if x.quantizer and node.kind == "swish":
            codes = self.graph.quantizers.get(gate_name(name), GATE_CODES)
            gate = self.step("act", [x], gate_name(name), codes, kind="sigmoid")
        if x.quantizer and node.kind == "hswish" and _reaches_minus_three(x.quantizer):
            gate = self._hswish_gate(x, name)
        if gate:
            self.values[name] = self.step("mul", [x, gate], name, self.quantizer(name))
        else:
            codes = LOGISTIC_CODES if x.quantizer and node.kind == "sigmoid" else self.trained(name)
            self.values[name] = self.step("act", [x], name, codes, kind=node.kind)

    def _hswish_gate(self, x: Operand, name: str) -> Operand:
        # hswish(x) = x * min(x + 3, 6) / 6, and x + 3 is the code times the scale.
        gate, six = Quantizer(np.float32(x.quantizer.scale / 6), 0), 2 * x.quantizer.zero_point
        if six >= 255:
            return Operand(x.name, gate)
        return self.step("clip", [Operand(x.name, gate)], gate_name(name), gate, bounds=(0, six))

    def take_pool(self, node: Node):
        self.values[node.output] = self.step("pool", [self.values[node.inputs[0]]], node.output,
                                             self.quantizer(node.output))

    def take_mul(self, node: Node):
        self.write(node, [self.values[name] for name in node.inputs])

    def take_add(self, node: Node):
        inputs = [self.values[name] for name in node.inputs]
        tensor, act = self.target(node)
        readers = self.consumers.get(tensor, [])
        only_layers = bool(readers) and all(isinstance(reader, WeightNode) for reader in readers)
        if not self.trained(tensor) and only_layers and all(x.quantizer for x in inputs):
            self.sums[tensor] = (node, inputs, act)
        elif self.trained(tensor) or self.shared(tensor):
            self.write(node, inputs)
        else:
            self.values[node.output] = self.step("add", inputs, node.output)

    def take_linear(self, node: WeightNode):
        x = self.read(node.inputs[0], node.quantizer)
        self.values[node.output] = self.step("linear", [x], node.output, node=node)


def _layer(node: Node) -> WeightNode | None:
    return node if isinstance(node, WeightNode) else None


def _bounds(act: str, quantizer: Quantizer) -> tuple[int, int]:
    """The codes that a ReLU clips its input to; saturation bounds codes at 0 and 255 already."""
    zero = quantizer.zero_point
    high = min(255, zero + int(np.round(np.float32(6) / quantizer.scale))) if act == "relu6" else 255
    return zero if act else 0, high


def before_activation(kind: str, low: float, high: float) -> Quantizer:
    """The codes of a tensor within `low` ... `high` that only an activation of `kind` reads."""
    useful = USEFUL_INPUT.get(kind, (-np.inf, np.inf))
    if kind != "hswish":
        return Quantizer.from_range(max(low, useful[0]), min(high, useful[1]))
    return from_minus_three(high)


def from_minus_three(high: float) -> Quantizer:
    """Codes from exactly -3 up to `high` or a little more, for the input of an h-swish."""
    steps = int(np.clip(np.floor(3 * 255 / (max(high, 0.0) + 3)), 1, 255))  # of the codes, from -3 to 0
    return Quantizer(np.float32(3 / steps), steps)


def _reaches_minus_three(quantizer: Quantizer) -> bool:
    return abs(quantizer.zero_point * float(quantizer.scale) - 3) < 1e-5
