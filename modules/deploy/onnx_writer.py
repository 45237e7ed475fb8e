"""ONNX files from an inference graph: float, or int8 as Q/DQ pairs (uint8 activations, int8 weights per channel)."""
from __future__ import annotations

import numpy as np

from modules.deploy.graph import INPUT, OUTPUT, Graph, Node, Quantizer, WeightNode
from modules.utils.files import atomic_write

OPSET = 17
_FUSED = ("relu", "relu6")  # activations that an engine folds into the convolution before them
# Inputs below or above which an activation is constant or linear enough to be exact: the range worth coding.
_USEFUL_INPUT = {"hswish": (-3.0, np.inf), "hard_sigmoid": (-3.0, 3.0)}


def onnx_bytes(graph: Graph, metadata: dict[str, str] | None = None) -> bytes:
    """`graph` as an ONNX file: int8 if its layers carry codes, float otherwise.

    The model of a network takes `input` (batch, 3, R, R) float32, normalised, and gives `output` (batch, classes)
    float32. `metadata` goes into the model's properties.
    """
    int8 = any(isinstance(n, WeightNode) and n.codes is not None for n in graph.nodes)
    return (_Int8Writer if int8 else _FloatWriter)(graph).model(metadata or {}).SerializeToString()


def write_onnx(graph: Graph, path, metadata: dict[str, str] | None = None) -> None:
    """Write `onnx_bytes` to `path`, atomically."""
    content = onnx_bytes(graph, metadata)
    with atomic_write(path, "wb") as file:
        file.write(content)


class _FloatWriter:
    """Emits every node as the ONNX operator of the same meaning."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.consumers = graph.consumers
        self.nodes, self.initializers = [], []
        self.values = {INPUT: INPUT}  # tensor of the graph -> name of its float value in the file
        self.constants: set[str] = set()

    def model(self, metadata: dict[str, str]):
        """The finished `onnx.ModelProto`, checked."""
        import onnx
        from onnx import TensorProto, helper

        for node in self.graph.nodes:
            getattr(self, f"emit_{node.op}")(node)
        last = self.graph.nodes[-1]
        if last.op == "linear":
            output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", len(last.bias)])
        else:  # a part of a network
            output = helper.make_tensor_value_info(self.values[last.output], TensorProto.FLOAT, list("nchw"))
        onnx_graph = helper.make_graph(
            self.nodes, "subnet",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *self.graph.input_shape])],
            [output], self.initializers)
        model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        onnx.checker.check_model(model)
        return model

    def op(self, kind: str, inputs, output: str, **attributes) -> str:
        """Append one ONNX operator and return its output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}:{output}", **attributes))
        return output

    def constant(self, name: str, value) -> str:
        """Append an initialiser (once per name) and return its name."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants.add(name)
            self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def emit_conv(self, node: WeightNode):
        inputs = [self.values[node.inputs[0]], self.constant(f"{node.output}.weight", node.weight),
                  self.constant(f"{node.output}.bias", node.bias)]
        self.values[node.output] = self.op("Conv", inputs, node.output, **_conv_attributes(node))

    def emit_linear(self, node: WeightNode):
        flat = self.op("Flatten", [self.values[node.inputs[0]]], f"{node.output}.flat")
        self.op("Gemm", [flat, self.constant(f"{node.output}.weight", node.weight.T),
                         self.constant(f"{node.output}.bias", node.bias)], OUTPUT)

    def emit_act(self, node: Node):
        self.values[node.output] = self.activation(node.kind, self.values[node.inputs[0]], node.output)

    def activation(self, kind: str, x: str, output: str) -> str:
        """Append an activation on the float value `x`."""
        if kind == "relu":
            return self.op("Relu", [x], output)
        if kind == "relu6":
            return self.op("Clip", [x, self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))],
                           output)
        if kind == "hswish":
            return self.op("HardSwish", [x], output)
        if kind == "hard_sigmoid":
            return self.op("HardSigmoid", [x], output, alpha=1 / 6, beta=0.5)
        return self.op("Mul", [x, self.op("Sigmoid", [x], f"{output}.sigmoid")], output)  # swish

    def emit_pool(self, node: Node):
        self.values[node.output] = self.op("GlobalAveragePool", [self.values[node.inputs[0]]], node.output)

    def emit_mul(self, node: Node):
        self.values[node.output] = self.op("Mul", [self.values[name] for name in node.inputs], node.output)

    def emit_add(self, node: Node):
        self.values[node.output] = self.op("Add", [self.values[name] for name in node.inputs], node.output)


def _conv_attributes(node: WeightNode) -> dict:
    kernel = list(node.weight.shape[2:])
    return {"kernel_shape": kernel, "strides": [node.stride] * 2, "group": node.groups,
            "pads": [k // 2 for k in kernel] * 2}


class _Int8Writer(_FloatWriter):
    """Emits convolutions between quantise and dequantise operators that an engine fuses into integer ones.

    A tensor between convolutions takes the trained quantiser of its consumers directly, if they share one.
    Every other convolution output is coded by its calibrated range; what is added, multiplied, pooled or passed
    through a smooth activation is float, as it was in training.
    """

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.pending: dict[str, tuple[str, str]] = {}  # tensor -> (raw convolution output, fused activation)
        self.codes: dict[tuple[str, Quantizer], str] = {}
        self.done: set[str] = set()  # activations folded into the convolution before them

    def quantize(self, x: str, quantizer: Quantizer, output: str) -> str:
        """Append a quantise operator on the float value `x`."""
        return self.op("QuantizeLinear", [x, *self._parameters(quantizer, output)], f"{output}.q")

    def dequantize(self, codes: str, quantizer: Quantizer, output: str) -> str:
        """Append a dequantise operator."""
        return self.op("DequantizeLinear", [codes, *self._parameters(quantizer, output)], f"{output}.dq")

    def _parameters(self, quantizer: Quantizer, name: str) -> list[str]:
        return [self.constant(f"{name}.scale", np.float32(quantizer.scale)),
                self.constant(f"{name}.zero_point", np.uint8(quantizer.zero_point))]

    def dequantized_input(self, tensor: str, quantizer: Quantizer, consumer: str) -> str:
        """The value of `tensor` after the quantiser of the layer `consumer`."""
        key = (tensor, quantizer)
        if key not in self.codes:
            if tensor in self.pending:
                raw, act = self.pending.pop(tensor)
                codes = self._clip_codes(self.quantize(raw, quantizer, f"{consumer}.in"), act, quantizer)
            else:
                codes = self.quantize(self.values[tensor], quantizer, f"{consumer}.in")
            self.codes[key] = self.dequantize(codes, quantizer, f"{consumer}.in")
        return self.codes[key]

    def _clip_codes(self, codes: str, act: str, quantizer: Quantizer) -> str:
        # Saturation already bounds the codes at 0 and 255; clip only where the activation's bounds lie inside.
        zero = quantizer.zero_point
        low = zero if act in _FUSED else 0
        high = min(255, zero + int(np.round(np.float32(6) / quantizer.scale))) if act == "relu6" else 255
        if (low, high) == (0, 255):
            return codes
        bounds = [self.constant(f"code_{value}", np.uint8(value)) for value in (low, high)]
        return self.op("Clip", [codes, *bounds], f"{codes}.clip")

    def _weighted_inputs(self, node: WeightNode, x: str, transpose: bool = False) -> list[str]:
        axis = 1 if transpose else 0
        codes = node.codes.T if transpose else node.codes
        name = node.output
        weight = self.op("DequantizeLinear", [
            self.constant(f"{name}.weight", codes), self.constant(f"{name}.weight.scale", node.scales),
            self.constant(f"{name}.weight.zero_point", np.zeros(len(node.scales), np.int8))],
            f"{name}.weight.dq", axis=axis)
        # The product in float32, exactly: with any other bias scale onnxruntime keeps a float convolution.
        bias_scale = np.float32(node.quantizer.scale) * node.scales
        bias = np.round(node.bias.astype(np.float64) / bias_scale.astype(np.float64)).astype(np.int32)
        bias = self.op("DequantizeLinear", [
            self.constant(f"{name}.bias", bias), self.constant(f"{name}.bias.scale", bias_scale),
            self.constant(f"{name}.bias.zero_point", np.zeros(len(bias), np.int32))], f"{name}.bias.dq", axis=0)
        return [x, weight, bias]

    def emit_conv(self, node: WeightNode):
        x = self.dequantized_input(node.inputs[0], node.quantizer, node.output)
        raw = self.op("Conv", self._weighted_inputs(node, x), node.output, **_conv_attributes(node))
        tensor, act = node.output, ""
        readers = self.consumers.get(tensor, [])
        if len(readers) == 1 and readers[0].op == "act" and readers[0].kind in _FUSED:
            tensor, act = readers[0].output, readers[0].kind
            self.done.add(tensor)
            readers = self.consumers.get(tensor, [])
        if {reader.op for reader in readers} == {"conv"} and len({reader.quantizer for reader in readers}) == 1:
            self.pending[tensor] = (raw, act)
            return
        low, high = self.graph.ranges[tensor]
        if len(readers) == 1 and readers[0].op == "act":
            useful = _USEFUL_INPUT.get(readers[0].kind, (-np.inf, np.inf))
            low, high = max(low, useful[0]), min(high, useful[1])
        quantizer = _from_range(low, high)
        codes = self._clip_codes(self.quantize(raw, quantizer, f"{tensor}.out"), act, quantizer)
        self.values[tensor] = self.dequantize(codes, quantizer, f"{tensor}.out")

    def emit_act(self, node: Node):
        if node.output not in self.done:
            super().emit_act(node)

    def emit_linear(self, node: WeightNode):
        flat = self.op("Flatten", [self.values[node.inputs[0]]], f"{node.output}.flat")
        codes = self.quantize(flat, node.quantizer, f"{node.output}.in")
        x = self.dequantize(codes, node.quantizer, f"{node.output}.in")
        self.op("Gemm", self._weighted_inputs(node, x, transpose=True), OUTPUT)


def _from_range(low: float, high: float) -> Quantizer:
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
    scale = np.float32((high - low) / 255)
    return Quantizer(scale, int(np.clip(np.round(-low / scale), 0, 255)))
