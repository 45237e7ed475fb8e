"""ONNX files from an inference graph: float, or int8 as Q/DQ pairs (uint8 activations, int8 weights per channel).

Weights of 4 bits are stored as int4 and cast to int8, which onnxruntime does once, when it opens the file: it has no
convolution on int4, and one behind a DequantizeLinear of int4 runs in float.
"""
from __future__ import annotations

import numpy as np

from modules.deploy.graph.graph import INPUT, OUTPUT, Graph, Quantizer, WeightNode
from modules.deploy.graph.padding import pad_channels
from modules.deploy.graph.plan import Operand, Plan, Step, make_plan
from modules.utils.files import atomic_write

OPSET, IR = 17, 8
INT4_OPSET, INT4_IR = 21, 10  # the first ones that know int4


def onnx_bytes(graph: Graph, metadata: dict[str, str] | None = None) -> bytes:
    """`graph` as an ONNX file: int8 if its layers carry codes, float otherwise.

    The model of a network takes `input` (batch, 3, R, R) float32, normalised, and gives `output` (batch, classes)
    float32; if the graph takes bytes, `input` is (batch, R, R, 3) uint8. `metadata` goes into the model's properties.
    """
    return onnx_model(make_plan(pad_channels(graph) if graph.int8 else graph), metadata).SerializeToString()


def write_onnx(graph: Graph, path, metadata: dict[str, str] | None = None) -> None:
    """Write `onnx_bytes` to `path`, atomically."""
    content = onnx_bytes(graph, metadata)
    with atomic_write(path, "wb") as file:
        file.write(content)


def onnx_model(plan: Plan, metadata: dict[str, str] | None = None):
    """The `onnx.ModelProto` of `plan`, checked."""
    return _Writer(plan).model(metadata or {})


class _Writer:
    """Emits every step as the ONNX operator of the same meaning.

    A step dequantises the codes that it reads and quantises a result that is codes. An engine fuses the operator and
    the pairs around it into an integer operator.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.nodes, self.initializers = [], []
        self.constants: set[str] = set()
        self.int4 = False
        self.floats: dict[tuple[str, Quantizer | None], str] = {}

    def model(self, metadata: dict[str, str]):
        """The finished model."""
        import onnx
        from onnx import TensorProto, helper

        for step in self.plan.steps:
            getattr(self, f"emit_{step.op}", self.emit_valued)(step)
        last = self.plan.steps[-1]
        if last.op == "linear":
            shape, result = ["batch", len(last.node.bias)], OUTPUT
        else:  # a part of a network
            shape, result = list("nchw"), self.value(self.plan.output)
        onnx_graph = helper.make_graph(
            self.nodes, "subnet",
            [self.source()],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)], self.initializers)
        opset, ir = (INT4_OPSET, INT4_IR) if self.int4 else (OPSET, IR)
        model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        onnx.checker.check_model(model)
        return model

    def source(self):
        """The description of the model's input."""
        from onnx import TensorProto, helper

        channels, height, width = self.plan.input_shape
        if self.plan.pixels:
            return helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", height, width, channels])
        return helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", channels, height, width])

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

    def parameters(self, quantizer: Quantizer, name: str) -> list[str]:
        """Scale and zero point as initialisers."""
        return [self.constant(f"{name}.scale", np.float32(quantizer.scale)),
                self.constant(f"{name}.zero_point", np.uint8(quantizer.zero_point))]

    def value(self, operand: Operand) -> str:
        """The name of the float value of `operand`."""
        if operand.quantizer is None:
            return operand.name
        key = (operand.name, operand.quantizer)
        if key not in self.floats:
            name = f"{operand.name}.{len(self.floats)}"
            self.floats[key] = self.op("DequantizeLinear", [operand.name, *self.parameters(operand.quantizer, name)],
                                       f"{name}.dq")
        return self.floats[key]

    def result(self, step: Step, kind: str, inputs, **attributes) -> None:
        """Append the operator of `step`, and one that quantises its result if the result is codes."""
        if step.quantizer is None:
            self.op(kind, inputs, step.output, **attributes)
        else:
            exact = self.op(kind, inputs, f"{step.output}.exact", **attributes)
            self.quantize(exact, step)

    def quantize(self, x: str, step: Step) -> None:
        """Append the operator that codes the float value `x`."""
        self.op("QuantizeLinear", [x, *self.parameters(step.quantizer, step.output)], step.output)

    def emit_quantize(self, step: Step):
        self.quantize(self.value(step.inputs[0]), step)

    def emit_clip(self, step: Step):
        bounds = [self.constant(f"code_{bound}", np.uint8(bound)) for bound in step.bounds]
        self.op("Clip", [step.inputs[0].name, *bounds], step.output)

    def emit_pad(self, step: Step):
        more = step.channels - self.plan.input_shape[0]
        self.op("Pad", [step.inputs[0].name, self.constant(f"{step.output}.by", np.int64([0, 0, 0, 0, 0, more, 0, 0])),
                        self.constant(f"{step.output}.with", np.uint8(step.quantizer.zero_point))], step.output)

    def emit_image(self, step: Step):
        by = self.constant(f"{step.output}.by", np.int64([0, 0, 0, 0, 0, 0, 0, 1]))
        padded = self.op("Pad", [step.inputs[0].name, by, self.constant(f"{step.output}.with", np.uint8(255))],
                         f"{step.output}.padded")
        self.op("Transpose", [padded], step.output, perm=[0, 3, 1, 2])

    def emit_valued(self, step: Step):
        kind = {"pool": "GlobalAveragePool", "mul": "Mul", "add": "Add"}[step.op]
        self.result(step, kind, [self.value(x) for x in step.inputs])

    def emit_act(self, step: Step):
        x = self.value(step.inputs[0])
        if step.kind == "relu6":
            six = [self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))]
            self.result(step, "Clip", [x, *six])
        elif step.kind == "hard_sigmoid":
            self.result(step, "HardSigmoid", [x], alpha=1 / 6, beta=0.5)
        elif step.kind == "swish":
            self.result(step, "Mul", [x, self.op("Sigmoid", [x], f"{step.output}.sigmoid")])
        else:
            self.result(step, {"relu": "Relu", "hswish": "HardSwish", "sigmoid": "Sigmoid"}[step.kind], [x])

    def emit_conv(self, step: Step):
        node = step.node
        kernel = list(node.weight.shape[2:])
        pads = {"auto_pad": "SAME_UPPER"} if node.same else {"pads": [k // 2 for k in kernel] * 2}
        self.result(step, "Conv", [self.value(step.inputs[0]), *self.weights(node, node.output)], kernel_shape=kernel,
                    strides=[node.stride] * 2, group=node.groups, **pads)

    def emit_linear(self, step: Step):
        x, name = step.inputs[0], step.output
        flat = Operand(self.op("Flatten", [x.name], f"{name}.flat"), x.quantizer)
        self.op("Gemm", [self.value(flat), *self.weights(step.node, name, transpose=True)], OUTPUT)

    def weights(self, node: WeightNode, name: str, transpose: bool = False) -> list[str]:
        """Weight and bias of a layer: float, or dequantised codes."""
        if node.codes is None:
            return [self.constant(f"{name}.weight", node.weight.T if transpose else node.weight),
                    self.constant(f"{name}.bias", node.bias)]
        weight = self.op("DequantizeLinear", [
            self.codes(f"{name}.weight", node.codes.T if transpose else node.codes, node.bits),
            self.constant(f"{name}.weight.scale", node.scales),
            self.constant(f"{name}.weight.zero_point", np.zeros(len(node.scales), np.int8))],
            f"{name}.weight.dq", axis=1 if transpose else 0)
        codes, scale = node.bias_codes()
        bias = self.op("DequantizeLinear", [
            self.constant(f"{name}.bias", codes), self.constant(f"{name}.bias.scale", scale),
            self.constant(f"{name}.bias.zero_point", np.zeros(len(codes), np.int32))], f"{name}.bias.dq", axis=0)
        return [weight, bias]

    def codes(self, name: str, codes: np.ndarray, bits: int) -> str:
        """The int8 codes of a weight, stored in as many `bits`."""
        if bits != 4:
            return self.constant(name, codes)
        from onnx import TensorProto, helper

        self.int4 = True
        pairs = np.pad(codes.ravel(), (0, codes.size % 2)).view(np.uint8).reshape(-1, 2) & 15  # the first one is low
        packed = (pairs[:, 0] | pairs[:, 1] << 4).tobytes()
        self.initializers.append(helper.make_tensor(f"{name}.int4", TensorProto.INT4, codes.shape, packed, raw=True))
        return self.op("Cast", [f"{name}.int4"], name, to=TensorProto.INT8)
