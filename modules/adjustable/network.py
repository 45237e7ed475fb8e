"""A network whose layers and tensors are quantised adjustably, made from the float inference graph of any subnet."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.adjustable.cost import LayerCost
from modules.adjustable.quantizer import RANGES, AdjustableQuantizer, channel_range
from modules.deploy.graph.graph import INPUT, Graph, Node, WeightNode
from modules.modeling.blocks import ACTIVATIONS, module_name
from modules.modeling.network import resize
from modules.modeling.spec import output_size

_SMOOTH = ("swish", "hswish", "hard_sigmoid", "sigmoid")


class _Layer(nn.Module):
    """A convolution or linear layer with folded norm: weight per output channel, bias in 8 bits over its own range."""

    def __init__(self, node: WeightNode, limits, bits_trainable: bool):
        super().__init__()
        self.stride, self.groups, self.linear = node.stride, node.groups, node.op == "linear"
        self.weight = nn.Parameter(torch.from_numpy(node.weight.copy()))
        self.bias = nn.Parameter(torch.from_numpy(node.bias.copy()))
        self.weight_quantizer = AdjustableQuantizer(*channel_range(self.weight, 0), 0, limits, bits_trainable)
        self.bias_quantizer = AdjustableQuantizer(torch.zeros(1), torch.ones(1), None, limits, bits_trainable=False)

    def forward(self, x: torch.Tensor, quantized: bool) -> torch.Tensor:
        """(N, C, H, W), or (N, C, 1, 1) for a linear layer."""
        weight, bias = self.weight, self.bias
        if quantized:
            weight = self.weight_quantizer(weight)
            bias = self.bias_quantizer(bias, live=(bias.min().view(1), bias.max().view(1)))
        if self.linear:
            return F.linear(x.flatten(1), weight, bias)
        return F.conv2d(x, weight, bias, self.stride, weight.shape[-1] // 2, 1, self.groups)


class AdjustableNetwork(nn.Module):
    """Runs `graph` (float, norms folded), quantised once `calibrate` has seen images.

    Every tensor that layers read has a quantiser per channel with learned bits; the image has none. What a smooth
    activation reads has one of 8 bits. Sums and products that only such readers share have none.

    Args:
        graph: as `lower` gives it without calibration; weights may be random where a checkpoint is loaded after.
        limits: an entry of `RANGES`.
        bits_trainable: False: 8 bits everywhere.
    """

    def __init__(self, graph: Graph, limits=RANGES["5"], bits_trainable: bool = True):
        super().__init__()
        self.nodes, self.quantized = graph.nodes, False
        self.shapes = _shapes(graph)
        self.layers = nn.ModuleDict({module_name(node.output): _Layer(node, limits, bits_trainable)
                                     for node in graph.nodes if isinstance(node, WeightNode)})
        self.tensors = nn.ModuleDict()
        for name, readers in graph.consumers.items():
            by_layers = any(isinstance(reader, WeightNode) for reader in readers)
            if name != INPUT and (by_layers or any(reader.kind in _SMOOTH for reader in readers)):
                channels = torch.zeros(self.shapes[name][0])
                self.tensors[module_name(name)] = AdjustableQuantizer(channels, channels, 1, limits,
                                                               bits_trainable and by_layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W), resized to the network's resolution, to logits (N, classes)."""
        return self._run(x, lambda name, value: value if not (self.quantized and module_name(name) in self.tensors)
                         else self.tensors[module_name(name)](value))

    def _run(self, x: torch.Tensor, seen) -> torch.Tensor:
        values = {INPUT: resize(x, self.shapes[INPUT][-1])}
        for node in self.nodes:
            values[node.output] = seen(node.output, self._result(node, [values[name] for name in node.inputs]))
        return values[self.nodes[-1].output]

    def _result(self, node: Node, inputs) -> torch.Tensor:
        if isinstance(node, WeightNode):
            return self.layers[module_name(node.output)](inputs[0], self.quantized)
        if node.op == "act":
            return ACTIVATIONS[node.kind](inputs[0])
        if node.op == "pool":
            return inputs[0].mean((2, 3), keepdim=True)
        return inputs[0] * inputs[1] if node.op == "mul" else inputs[0] + inputs[1]

    @torch.no_grad()
    def calibrate(self, batches) -> AdjustableNetwork:
        """Set the ranges of tensors to those seen in float on `batches` of images, quantise from now on; returns self.
        """
        ends: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def widen(name, value):
            if module_name(name) in self.tensors:
                low, high = channel_range(value, 1)
                if name in ends:
                    low, high = torch.minimum(low, ends[name][0]), torch.maximum(high, ends[name][1])
                ends[name] = low, high
            return value

        self.quantized = False
        for images in batches:
            self._run(images, widen)
        for name, (low, high) in ends.items():
            quantizer = self.tensors[module_name(name)]
            quantizer.low.copy_(low)
            quantizer.width.copy_(high - low)
        return self.quantize()

    def quantize(self, on: bool = True) -> AdjustableNetwork:
        """Switch the quantisers on or off; returns self."""
        self.quantized = on
        return self

    def bit_parameters(self) -> list[nn.Parameter]:
        """What decides the bits."""
        return [p for name, p in self.named_parameters() if name.endswith("bits_scale")]

    def costs(self) -> tuple[list[LayerCost], int, int]:
        """What `micronet_score` takes: layers, number of biases, values that pass a smooth activation."""
        layers, biases, smooth = [], 0, 0
        for node in self.nodes:
            if isinstance(node, WeightNode):
                layer, source = self.layers[module_name(node.output)], node.inputs[0]
                _, height, width = self.shapes[node.output]
                layers.append(LayerCost(
                    layer.weight.numel(), layer.weight.numel() * height * width, layer.weight_quantizer.bits(),
                    None if source == INPUT else self.tensors[module_name(source)].bits(), paired=layer.groups > 1))
                biases += len(layer.bias)
            elif node.kind in _SMOOTH:
                channels, height, width = self.shapes[node.output]
                smooth += channels * height * width
        return layers, biases, smooth

    def bits(self) -> dict[str, dict[str, list[int]]]:
        """Bits per channel of every layer's weight and input; None for the image."""
        return {node.output: {
            "weight": _whole(self.layers[module_name(node.output)].weight_quantizer.bits()),
            "input": None if node.inputs[0] == INPUT else _whole(self.tensors[module_name(node.inputs[0])].bits())}
            for node in self.nodes if isinstance(node, WeightNode)}


def _whole(bits: torch.Tensor) -> list[int]:
    return [int(b) for b in bits.detach().round()]


def _shapes(graph: Graph) -> dict[str, tuple[int, int, int]]:
    """(channels, height, width) of every tensor."""
    shapes = {INPUT: graph.input_shape}
    for node in graph.nodes:
        channels, height, width = shapes[node.inputs[0]]
        if isinstance(node, WeightNode):
            channels, height, width = len(node.bias), *(output_size(size, node.stride) for size in (height, width))
        elif node.op == "pool":
            height = width = 1
        shapes[node.output] = channels, height, width
    return shapes
