"""Float TFLite files; int8_writer.py builds on them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from modules.deploy.graph.graph import INPUT, Graph, Node, Quantizer, WeightNode
from modules.deploy.graph.plan import LOGISTIC_CODES
from modules.deploy.to_tflite.file import TfliteModel
from modules.deploy.to_tflite.layers import Filter, Layer, arrange, layer_codes, padding
from modules.modeling.placement import HARD_SIGMOID_SHIFT, gate_name
from modules.modeling.spec import output_size

# Activations fused into an operator. The hard sigmoid clamp(x / 6 + 1 / 2, 0, 1) is written as six times itself,
# clamp(x + 3, 0, 6).
_FUSED = {"": "NONE", "relu": "RELU", "relu6": "RELU6", "hard_sigmoid": "RELU6"}


@dataclass(frozen=True)
class Form:
    """Options for files with the same meaning.

    Attributes:
        grouped: large depthwise filters as grouped convolutions, the fast form under XNNPACK. TFLite's own kernels run
            the plain form faster.
        int8_output: an int8 model gives codes instead of float32 logits, for devices without float.
    """

    grouped: bool = True
    int8_output: bool = False


@dataclass(frozen=True)
class Stored:
    """A tensor of the file, in shape (height, width, channels).

    It holds `factor` times the value of the graph's tensor; the weights of the layers that read it divide by `factor`.
    `scale` is the scale of its codes.
    """

    index: int
    shape: tuple[int, ...]
    factor: float = 1.0
    scale: float = 1.0


class FloatWriter:
    """Emits every node as operators of the same meaning.

    A convolution is written at once. A sum, product or mean is written when a layer reads it, in that layer's codes.
    Layers with different codes each get a copy, computed straight from the operands. Float has one form only; its codes
    are None.
    """

    def __init__(self, graph: Graph, form: Form):
        self.graph, self.consumers, self.file = graph, graph.consumers, TfliteModel()
        self.form = form
        self.copies: dict[tuple[str, Quantizer | None], Stored] = {}
        self.produce: dict[str, Callable[[Quantizer | None], Stored]] = {}

    def content(self, metadata: dict[str, str]) -> bytes:
        """The finished file."""
        channels, height, width = self.graph.input_shape
        source = self.new(INPUT, (height, width, channels), self.own(INPUT))
        self.keep(INPUT, source)
        for node in self.graph.nodes:
            if node.output not in self.produce:  # otherwise it is an activation fused into the operator before it
                getattr(self, f"emit_{node.op}")(node)
        output = self.unscaled(self.graph.nodes[-1].output)
        return self.file.content([source.index], [output.index], metadata)

    def own(self, tensor: str) -> Quantizer | None:
        """The codes of `tensor` for readers without codes of their own."""
        return None

    def new(self, name: str, shape, quantizer: Quantizer | None, factor: float = 1.0) -> Stored:
        """Add a tensor for an operator to write; `quantizer` is of the graph's value, without the factor."""
        return Stored(self.file.tensor(name, (1, *shape), np.float32), tuple(shape), factor)

    def keep(self, tensor: str, stored: Stored) -> None:
        """Record that `tensor` exists in its own codes."""
        self.copies[tensor, self.own(tensor)] = stored
        self.produce[tensor] = partial(self.recode, tensor, stored)

    def recode(self, tensor: str, stored: Stored, quantizer: Quantizer | None) -> Stored:
        """A copy of `stored` in other codes."""
        raise NotImplementedError(f"float tensor {tensor!r} has no codes")

    def read(self, tensor: str, quantizer: Quantizer | None = None) -> Stored:
        """`tensor` in the codes of `quantizer`, or in its own."""
        quantizer = quantizer or self.own(tensor)
        if (tensor, quantizer) not in self.copies:
            self.copies[tensor, quantizer] = self.produce[tensor](quantizer)
        return self.copies[tensor, quantizer]

    def unscaled(self, tensor: str) -> Stored:
        """`tensor` in its own codes, without a factor."""
        stored = self.read(tensor)
        if stored.factor == 1:
            return stored
        inverse = self.constant(f"{tensor}.inverse", 1 / stored.factor)
        return self.binary("MUL", stored, inverse, self.new(tensor, stored.shape, self.own(tensor)))

    def constant(self, name: str, value: float) -> Stored:
        """A positive number as a tensor."""
        return Stored(self.file.constant(name, np.full((1, 1, 1, 1), value, np.float32)), (1, 1, 1))

    def unary(self, kind: str, x: Stored, out: Stored) -> Stored:
        """Append an operator without options."""
        self.file.operator(kind, [x.index], out.index)
        return out

    def binary(self, kind: str, a: Stored, b: Stored, out: Stored, act: str = "") -> Stored:
        """Append a sum (`kind` ADD) or product (MUL), with an activation fused; `b` may be of height and width 1."""
        self.file.operator(kind, [a.index, b.index], out.index, f"{kind.title()}Options",
                           fusedActivationFunction=_FUSED[act])
        return out

    def product(self, name: str, a: Stored, b: Stored, quantizer: Quantizer | None) -> Stored:
        """Append the product of two tensors."""
        return self.binary("MUL", a, b, self.new(name, a.shape, quantizer, a.factor * b.factor))

    def target(self, node: Node) -> tuple[str, str]:
        """The result of `node` after the activation that is fused into it, and that activation."""
        readers = self.consumers.get(node.output, [])
        if len(readers) == 1 and readers[0].op == "act" and readers[0].kind in _FUSED:
            return readers[0].output, readers[0].kind
        return node.output, ""

    def numbers(self, node: WeightNode, x: Stored, out: Stored, bias: np.ndarray) -> Layer:
        """Weight and bias of a layer that reads `x` and writes `out`."""
        return Layer(node.weight / np.float32(x.factor), bias)

    def constants(self, name: str, layer: Layer, kernel: Filter) -> list[int]:
        """Tensors of a layer's weight and bias."""
        return [self.file.constant(f"{name}.weight", kernel.weight, layer_codes(layer.scales, kernel.axis)),
                self.file.constant(f"{name}.bias", layer.bias, layer_codes(layer.bias_scales, 0))]

    def emit_conv(self, node: WeightNode):
        tensor, act = self.target(node)
        x = self.read(node.inputs[0], node.quantizer)
        shift, factor = (HARD_SIGMOID_SHIFT, 6) if act == "hard_sigmoid" else (0, 1)
        out = self.new(tensor, [*(output_size(size, node.stride) for size in x.shape[:2]), len(node.bias)],
                       self.own(tensor), factor)
        layer = self.numbers(node, x, out, node.bias + np.float32(shift))
        kernel = arrange(layer.weight, node.groups, self.form.grouped)
        x, same = self.padded(x, node)
        fields = {"depthMultiplier": 1} if kernel.operator == "DEPTHWISE_CONV_2D" else {}
        self.file.operator(
            kernel.operator, [x.index, *self.constants(node.output, layer, kernel)], out.index,
            "DepthwiseConv2DOptions" if fields else "Conv2DOptions", padding="SAME" if same else "VALID",
            strideH=node.stride, strideW=node.stride, dilationHFactor=1, dilationWFactor=1,
            fusedActivationFunction=_FUSED[act], **fields)
        self.keep(tensor, out)

    def padded(self, x: Stored, node: WeightNode) -> tuple[Stored, bool]:
        """The input of a convolution with its border, or without it if TFLite's padding SAME gives that border.

        XNNPACK makes the padding a part of the convolution, in int8 too. The border holds the code of zero.
        """
        (rows, same_rows), (columns, same_columns) = (
            padding(size, node.weight.shape[-1], node.stride, node.same) for size in x.shape[:2])
        if same_rows and same_columns:
            return x, True
        amounts = self.file.constant(f"{node.output}.pads", np.array([(0, 0), rows, columns, (0, 0)], np.int32))
        shape = (x.shape[0] + sum(rows), x.shape[1] + sum(columns), x.shape[2])
        out = self.new(f"{node.output}.padded", shape, node.quantizer, x.factor)
        self.file.operator("PAD", [x.index, amounts], out.index, "PadOptions")
        return out, False

    def emit_linear(self, node: WeightNode):
        x = self.read(node.inputs[0], node.quantizer)
        out = self.new(node.output, (len(node.bias),), self.own(node.output))
        layer = self.numbers(node, x, out, node.bias)
        self.file.operator("FULLY_CONNECTED", [x.index, *self.constants(node.output, layer, Filter("", layer.weight))],
                           out.index, "FullyConnectedOptions", fusedActivationFunction="NONE")
        self.keep(node.output, out)

    def emit_act(self, node: Node):
        x = self.read(node.inputs[0])
        if node.kind == "hswish":
            self.produce[node.output] = lambda quantizer: self.unary(
                "HARD_SWISH", x, self.new(node.output, x.shape, quantizer))
            return
        if node.kind == "sigmoid":
            self.keep(node.output, self.unary("LOGISTIC", x, self.new(node.output, x.shape, self.own(node.output))))
            return
        gate = self.unary("LOGISTIC", x, self.new(gate_name(node.output), x.shape, LOGISTIC_CODES))  # of a swish
        self.produce[node.output] = lambda quantizer: self.product(node.output, x, gate, quantizer)

    def emit_pool(self, node: Node):
        x = self.read(node.inputs[0])

        def mean(quantizer):
            out = self.new(node.output, (1, 1, x.shape[2]), quantizer, x.factor)
            axes = self.file.constant(f"{node.output}.axes", np.array([1, 2], np.int32))
            self.file.operator("MEAN", [x.index, axes], out.index, "ReducerOptions", keepDims=True)
            return out

        self.produce[node.output] = mean

    def emit_mul(self, node: Node):
        x, gate = (self.read(name) for name in node.inputs)
        self.produce[node.output] = lambda quantizer: self.product(node.output, x, gate, quantizer)

    def emit_add(self, node: Node):
        tensor, act = self.target(node)
        a, b = (self.unscaled(name) for name in node.inputs)
        self.produce[tensor] = lambda quantizer: self.binary(
            "ADD", a, b, self.new(tensor, b.shape, quantizer), act)
