"""A network whose layers and tensors are quantised adjustably, made from the float inference graph of any subnet."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.adjustable.config import QuantizerSettings
from modules.adjustable.placement import Placement
from modules.adjustable.quantizer import AdjustableQuantizer, channel_range
from modules.adjustable.scoring.cost import FIXED, FULL, SMOOTH, LayerCost, layer_costs, micronet_score, tensor_shapes
from modules.deploy.graph.graph import INPUT, Graph, Node, WeightNode
from modules.modeling.blocks import module_name
from modules.modeling.network import resize
from modules.modeling.ops.activations import ACTIVATIONS
from modules.modeling.ops.convolve import convolve, convolve_same

_GATES = ".se.fc."  # in the names of squeeze-and-excitation's layers


class _Layer(nn.Module):
    """A convolution or linear layer with folded norm: weight per output channel, bias over its own range."""

    def __init__(self, node: WeightNode, settings: QuantizerSettings):
        super().__init__()
        self.stride, self.groups, self.linear, self.same = node.stride, node.groups, node.op == "linear", node.same
        self.weight = nn.Parameter(torch.from_numpy(node.weight.copy()))
        self.bias = nn.Parameter(torch.from_numpy(node.bias.copy()))
        self.weight_quantizer = self.bias_quantizer = None
        if not (settings.mix_prec and (self.linear or node.inputs[0] == INPUT or _GATES in node.output)):
            self.weight_quantizer = AdjustableQuantizer(*channel_range(self.weight, 0), 0, settings.limits,
                                                        settings.bits_trainable, settings.weight_bits, settings.engine)
        if settings.bias_bits and not settings.engine:
            self.bias_quantizer = AdjustableQuantizer(torch.zeros(1), torch.ones(1), None, settings.limits,
                                                      bits_trainable=False, bits=settings.bias_bits)

    def forward(self, x: torch.Tensor, quantized: bool) -> torch.Tensor:
        """(N, C, H, W), or (N, C, 1, 1) for a linear layer."""
        weight, bias = self.weight, self.bias
        if quantized and self.weight_quantizer:
            weight = self.weight_quantizer(weight)
        if quantized and self.bias_quantizer:
            bias = self.bias_quantizer(bias, live=(bias.min().view(1), bias.max().view(1)))
        if self.linear:
            return F.linear(x.flatten(1), weight, bias)
        pad = convolve_same if self.same else convolve
        return pad(x, weight, bias, (self.stride, self.stride), self.groups)

    def weight_bits(self) -> torch.Tensor:
        """(out,) bits of every channel's weight."""
        return self.weight_quantizer.bits() if self.weight_quantizer else torch.full_like(self.bias, FULL)


class AdjustableNetwork(nn.Module):
    """Runs `graph` (float, norms folded), quantised once its ranges are set (`calibrate`, `set_ranges`).

    `Placement` names the places of the quantisers. Quantisers of tensors that layers read have learned bits per
    channel, and those of inputs of smooth activations fixed ones. For engines (`settings.engine`) the former have one
    range of 8 bits, the image too. The export calibrates the others.

    Args:
        graph: as `lower` gives it without calibration; weights may be random where a checkpoint is loaded after.
    """

    def __init__(self, graph: Graph, settings: QuantizerSettings | None = None):
        super().__init__()
        self.settings = settings = settings or QuantizerSettings(bits_trainable=True)
        self.graph, self.nodes, self.quantized = graph, graph.nodes, False
        self.placement = Placement(graph, sums=settings.engine)
        self.shapes = tensor_shapes(graph.nodes, graph.input_shape)
        self.layers = nn.ModuleDict({module_name(node.output): _Layer(node, settings)
                                     for node in graph.nodes if isinstance(node, WeightNode)})
        self.tensors = nn.ModuleDict()
        for name in self.placement.learned:
            self._add(name, settings.act_bits, settings.bits_trainable)
        if settings.engine:
            self._add(INPUT, settings.act_bits, learned=False)
        for name in self.placement.fixed if settings.swish_bits >= 0 and not settings.engine else ():
            self._add(name, settings.swish_bits or settings.act_bits,
                      settings.bits_trainable and not settings.swish_bits)

    def _add(self, name: str, bits: int, learned: bool) -> None:
        engine = self.settings.engine
        ends = torch.zeros(1 if engine else self.shapes[name][0])
        self.tensors[module_name(name)] = AdjustableQuantizer(
            ends, ends, None if engine else 1, self.settings.limits, learned and not engine, bits, engine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W), resized to the network's resolution, to logits (N, classes)."""
        return self._run(x, self._quantised)

    def _run(self, x: torch.Tensor, seen) -> torch.Tensor:
        values = {INPUT: seen(INPUT, resize(x, self.shapes[INPUT][-1]))}
        for node in self.nodes:
            values[node.output] = seen(node.output, self._result(node, [values[name] for name in node.inputs]))
        return values[self.nodes[-1].output]

    def observe(self, images: torch.Tensor, seen) -> torch.Tensor:
        """Run on images (N, 3, H, W), call `seen(name, tensor)` for every tensor and return the logits."""
        def shown(name, value):
            value = self._quantised(name, value)
            if name != INPUT:
                seen(name, value)
            return value

        with torch.no_grad():
            return self._run(images, shown)

    def _quantised(self, name: str, value: torch.Tensor) -> torch.Tensor:
        known = self.quantized and module_name(name) in self.tensors
        return self.tensors[module_name(name)](value) if known else value

    def _result(self, node: Node, inputs) -> torch.Tensor:
        if isinstance(node, WeightNode):
            return self.layers[module_name(node.output)](inputs[0], self.quantized)
        if node.op == "act":
            return ACTIVATIONS[node.kind](inputs[0])
        if node.op == "pool":
            return inputs[0].mean((2, 3), keepdim=True)
        return inputs[0] * inputs[1] if node.op == "mul" else inputs[0] + inputs[1]

    # -- ranges -----------------------------------------------------------------------------------------------------

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
        return self.set_ranges({}, ends)

    @torch.no_grad()
    def set_ranges(self, weights: dict, tensors: dict) -> AdjustableNetwork:
        """Take (minimum, maximum) of channels for weights, by their layer, and for tensors; those that are not named
        keep theirs. Quantise from now on; returns self."""
        for name, (low, high) in weights.items():
            if quantizer := self.layers[module_name(name)].weight_quantizer:
                quantizer.set_range(torch.as_tensor(low), torch.as_tensor(high))
        for name, (low, high) in tensors.items():
            if module_name(name) in self.tensors:
                self.tensors[module_name(name)].set_range(torch.as_tensor(low), torch.as_tensor(high))
        return self.quantize()

    def ranges(self) -> tuple[dict, dict]:
        """The arguments of `set_ranges`, as arrays, without learned factors and shifts."""
        weights = {node.output: self.layers[module_name(node.output)].weight_quantizer
                   for node in self.nodes if isinstance(node, WeightNode)}
        tensors = {name: self.tensors[module_name(name)] for name in self.shapes if module_name(name) in self.tensors}
        return tuple({name: tuple(end.expand(self.shapes[name][0]).cpu().numpy() for end in (q.low, q.low + q.width))
                      for name, q in part.items() if q} for part in (weights, tensors))

    def quantize(self, on: bool = True) -> AdjustableNetwork:
        """Switch the quantisers on or off; returns self."""
        self.quantized = on
        return self

    # -- bits -------------------------------------------------------------------------------------------------------

    def bit_parameters(self) -> list[nn.Parameter]:
        """The parameters that decide the bits."""
        return [p for name, p in self.named_parameters() if name.endswith("bits_scale")]

    def learned_quantizers(self) -> list[AdjustableQuantizer]:
        """The quantisers whose bits are learned."""
        return [m for m in self.modules() if isinstance(m, AdjustableQuantizer) and m.bits_trainable]

    def costs(self) -> tuple[list[LayerCost], int, int]:
        """The arguments of `micronet_score`: layers, number of folded biases, values that pass a swish."""
        return layer_costs(self.nodes, self.shapes, lambda node: (
            self.layers[module_name(node.output)].weight_bits(), self._bits_of(self.placement.source(node))))

    def _bits_of(self, name: str) -> torch.Tensor | None:
        return None if name == INPUT else self.tensors[module_name(name)].bits().expand(self.shapes[name][0])

    def score(self, gamma: float, norms: str) -> torch.Tensor:
        """The network's MicroNet score; differentiable."""
        bias_bits = FULL if self.settings.engine else self.settings.bias_bits or FULL
        return micronet_score(*self.costs(), gamma=gamma, norms=norms, bias_bits=bias_bits,
                              swish_bits=self._swish_bits())

    def _swish_bits(self):
        """Mean bits of the values that pass a swish."""
        if self.settings.engine:
            return FIXED
        if self.settings.swish_bits:
            return self.settings.swish_bits if self.settings.swish_bits > 0 else FULL
        read = [node.inputs[0] for node in self.nodes if node.kind in SMOOTH]
        pixels = [self.shapes[name][1] * self.shapes[name][2] for name in read]
        bits = [self._bits_of(name) for name in read]
        values = sum(count * len(channels) for count, channels in zip(pixels, bits, strict=True))
        return sum(count * channels.sum() for count, channels in zip(pixels, bits, strict=True)) / max(values, 1)

    @property
    def published(self) -> Placement:
        """The quantisers that the published files name. An engine has one behind a sum, these have two before it."""
        return Placement(self.graph) if self.settings.engine else self.placement

    def bits(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Bits per channel of every layer's weight, by its name, and of every tensor that layers read."""
        weights = {node.output: self.layers[module_name(node.output)].weight_bits() for node in self.nodes
                   if isinstance(node, WeightNode)}
        acts = {name: torch.full((self.shapes[name][0],), float(self.settings.act_bits)) if self.settings.engine
                else self._bits_of(name) for name in self.published.learned}
        return tuple({name: [float(b) for b in bits.detach().round()] for name, bits in part.items()}
                     for part in (weights, acts))
