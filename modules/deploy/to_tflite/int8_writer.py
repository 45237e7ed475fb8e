"""Integer TFLite files: every tensor up to the logits is int8. The trained integers and quantisers are kept."""
from __future__ import annotations

import numpy as np

from modules.deploy.graph.graph import OUTPUT, Quantizer, WeightNode
from modules.deploy.graph.plan import GATE_CODES, LOGISTIC_CODES, USEFUL_INPUT, from_minus_three
from modules.deploy.to_tflite.file import Codes
from modules.deploy.to_tflite.float_writer import FloatWriter, Stored
from modules.deploy.to_tflite.layers import Filter, Layer, integer_layer
from modules.modeling.placement import gate_name

_ADDEND_STEP = 2.0**-8  # XNNPACK adds only tensors with steps of at least this size, in steps of the sum


class Int8Writer(FloatWriter):
    """Emits integer operators.

    TFLite has one quantiser per tensor. A tensor takes the trained quantiser that it owns, or that all its layers
    share. Any other tensor takes its calibrated range; each layer then reads a copy in the codes that it was trained
    with.
    """

    def __init__(self, graph, form):
        super().__init__(graph, form)
        self._own: dict[str, Quantizer | None] = {}
        self._producers = {node.output: node for node in graph.nodes}

    def own(self, tensor):
        if tensor not in self._own:
            self._own[tensor] = self._choose(tensor)
        return self._own[tensor]

    def _choose(self, tensor: str) -> Quantizer | None:
        if tensor == OUTPUT and not self.form.int8_output:
            return None
        producer, readers = self._producers.get(tensor), self.consumers.get(tensor, [])
        if producer is not None and producer.kind == "hard_sigmoid":
            return GATE_CODES
        if producer is not None and producer.kind == "sigmoid":
            return LOGISTIC_CODES
        if tensor in self.graph.quantizers:
            return self.graph.quantizers[tensor]
        trained = {getattr(reader, "quantizer", None) for reader in readers}
        if len(trained) == 1 and None not in trained:
            return trained.pop()
        low, high = self.graph.ranges[tensor]
        for reader in readers:
            if reader.op == "act" and reader.kind == "hswish":
                return from_minus_three(high)
            if reader.op == "act" and reader.kind in ("swish", "sigmoid"):
                useful = USEFUL_INPUT[reader.kind]
                low, high = max(low, useful[0]), min(high, useful[1])
            if reader.op == "add":
                high = max(high, min(low, 0) + 255 * _ADDEND_STEP * self.own(self.target(reader)[0]).scale)
        return Quantizer.from_range(low, high)

    def new(self, name, shape, quantizer, factor=1.0):
        if quantizer is None:
            return super().new(name, shape, None, factor)
        codes = _codes(quantizer, factor)
        return Stored(self.file.tensor(name, (1, *shape), np.int8, codes), tuple(shape), factor, codes.scales[0])

    def constant(self, name, value):
        codes = _codes(Quantizer(np.float32(value / 255), 0))
        index = self.file.constant(name, np.full((1, 1, 1, 1), 127, np.int8), codes)
        return Stored(index, (1, 1, 1), scale=codes.scales[0])

    def recode(self, tensor, stored, quantizer):
        return self.unary("QUANTIZE", stored, self.new(tensor, stored.shape, quantizer, stored.factor))

    def emit_act(self, node):
        if node.kind != "hswish":
            super().emit_act(node)
            return
        # hswish(x) = x * min(max(x + 3, 0), 6) / 6. The sum in steps of x is exact if 3 is a multiple of that step.
        x, codes = self.read(node.inputs[0]), self.own(node.inputs[0])
        top = min(6.0, 3 + (255 - codes.zero_point) * codes.scale)
        step = codes.scale if 255.5 * codes.scale > top else np.float32(6 / 255)
        gate = self.new(gate_name(node.output), x.shape, Quantizer(np.float32(step / 6), 0), 6)
        self.binary("ADD", x, self.constant(f"{node.output}.three", 3), gate, "relu6")
        self.produce[node.output] = lambda quantizer: self.product(node.output, x, gate, quantizer)

    def emit_linear(self, node):
        if self.form.int8_output:
            super().emit_linear(node)
            return
        # Codes of close logits tie: the result is float32. The layer still multiplies integers: it codes its input
        # afresh, over the range of the image. Two more inputs, the lowest and the highest code, make that range the
        # trained one and the codes the trained ones.
        x = self.read(node.inputs[0], node.quantizer)
        ends = self.ends(x, node)
        both = self.new(f"{node.output}.codes", (*x.shape[:-1], x.shape[-1] + 2), node.quantizer, x.factor)
        self.file.operator("CONCATENATION", [x.index, ends.index], both.index, "ConcatenationOptions", axis=3,
                           fusedActivationFunction="NONE")
        values = self.unary("DEQUANTIZE", both, self.new(f"{node.output}.input", both.shape, None, x.factor))
        out = self.new(node.output, (len(node.bias),), None)
        bias, steps = node.bias_codes()
        layer = Layer(np.pad(node.codes, ((0, 0), (0, 2))), (bias * steps).astype(np.float32),
                      node.scales / np.float32(x.factor))
        constants = self.constants(node.output, layer, Filter("", layer.weight))
        self.file.operator("FULLY_CONNECTED", [values.index, *constants], out.index, "FullyConnectedOptions",
                           fusedActivationFunction="NONE", asymmetricQuantizeInputs=True)
        self.keep(node.output, out)

    def ends(self, x: Stored, node: WeightNode) -> Stored:
        """The lowest and the highest code of `x` (1, 1, C) as two channels, from a convolution with a bias alone: it
        works for any batch size."""
        name = f"{node.output}.ends"
        out = self.new(name, (*x.shape[:-1], 2), node.quantizer, x.factor)
        layer = Layer(np.zeros((2, 1, 1, x.shape[-1]), np.int8), np.array([-256, 256], np.int32),
                      np.ones(2, np.float32), np.full(2, x.scale, np.float32))
        self.file.operator("CONV_2D", [x.index, *self.constants(name, layer, Filter("", layer.weight))], out.index,
                           "Conv2DOptions", padding="VALID", strideH=1, strideW=1, dilationHFactor=1,
                           dilationWFactor=1, fusedActivationFunction="NONE")
        return out

    def numbers(self, node, x, out, bias) -> Layer:
        return integer_layer(node.codes, node.scales, bias, node.quantizer.scale, out.scale, x.factor)


def _codes(quantizer: Quantizer, factor: float = 1.0) -> Codes:
    """TFLite's signed codes for the unsigned codes of `quantizer`."""
    return Codes((float(np.float32(quantizer.scale) * np.float32(factor)),), quantizer.zero_point - 128)
