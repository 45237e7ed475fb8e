"""Lowering of a static subnet: fold batch norm, keep the trained integers, calibrate what training left in float."""
from __future__ import annotations

import numpy as np
import torch

from modules.deploy.graph import INPUT, OUTPUT, Graph, Quantizer, WeightNode, Node
from modules.modeling.blocks import TorchOps
from modules.modeling.network import QNetwork, resize
from modules.modeling.ops.lsq_plus import activation_levels, weight_bounds
from modules.modeling.walk import walk
from modules.utils.errors import UserError

# A bias must fit int32 at the scale input * weight. Channels whose weights are too small for that are dead: their
# weights become zero and their scale is chosen for the bias alone.
_MAX_BIAS_CODE = 2**30


class _GraphOps:
    """Walk backend whose value is a tensor name; it turns the modules of `block` into nodes."""

    def __init__(self, prefix: str, block, nodes: list[Node], int8: bool):
        self.prefix, self.block, self.nodes, self.int8 = prefix, block, nodes, int8

    def _append(self, node: Node) -> str:
        self.nodes.append(node)
        return node.output

    def _name(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def conv(self, x, layer):
        module = self.block.get_submodule(layer.name)
        if not layer.norm:
            return self._weight("conv", x, module, self._name(layer.name))
        if not layer.stack:
            conv = module.dwconv if layer.depthwise else module.conv
            return self._weight("conv", x, conv, self._name(layer.name), module.norm)
        convs = list(module.dwconv.values())
        for i, conv in enumerate(convs[:-1]):
            x = self._weight("conv", x, conv, self._name(f"{layer.name}.{i}"))
        return self._weight("conv", x, convs[-1], self._name(layer.name), module.norm)

    def linear(self, x, layer):
        return self._weight("linear", x, self.block.get_submodule(layer.name), OUTPUT)

    def act(self, x, kind, name):
        return self._append(Node("act", (x,), self._name(name), kind))

    def pool(self, x, name):
        return self._append(Node("pool", (x,), self._name(name)))

    def mul(self, x, gate, name):
        return self._append(Node("mul", (x, gate), self._name(name)))

    def add(self, shortcut, x, name):
        return self._append(Node("add", (shortcut, x), self._name(name)))

    def _weight(self, op, x, module, name, norm=None):
        factor, bias = _folded_norm(module, norm)
        weight = module.weight.detach().double().numpy()
        shape = (-1,) + (1,) * (weight.ndim - 1)
        node = WeightNode(op, (x,), name, weight=(weight * factor.reshape(shape)).astype(np.float32),
                          bias=bias.astype(np.float32))
        if op == "conv":
            node.stride, node.groups = module.stride[0], module.groups
        if self.int8:
            node.quantizer = _input_quantizer(module, name)
            node.codes, node.scales = _weight_codes(module, weight, factor, bias, node.quantizer, name)
        return self._append(node)


def _folded_norm(module, norm) -> tuple[np.ndarray, np.ndarray]:
    """Factor and bias per output channel (float64) that stand for the norm and the layer's own bias."""
    bias = np.zeros(module.weight.shape[0])
    if module.bias is not None:
        bias = module.bias.detach().double().numpy()
    if norm is None:
        return np.ones_like(bias), bias
    gamma, beta, mean, var = (t.detach().double().numpy()
                              for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    factor = gamma / np.sqrt(var + norm.eps)
    return factor, beta + (bias - mean) * factor


def _input_quantizer(module, name: str) -> Quantizer:
    if module.nbits_a != 8 or module.nbits_w != 8 or not all(module._started):
        raise UserError(f"layer {name!r} is not a trained int8 layer; export needs an LSQ+ checkpoint (lsq.pth)")
    scale = np.float32(abs(module.activation_scale.item()))
    zero = np.round(-np.float32(module.activation_beta.item()) / scale)
    return Quantizer(scale, int(np.clip(zero, 0, activation_levels(8))))


def _weight_codes(module, weight, factor, bias, quantizer, name):
    scale = np.float32(abs(module.weight_scale.item()))
    low, high = weight_bounds(8, module.narrow_range)
    # float32 arithmetic, as in training, so that the codes are the trained ones
    codes = np.round(np.clip(weight.astype(np.float32) / scale, low, high))
    # A published weight may hold code -128. It has no negative, and engines are fastest with the symmetric range.
    codes = np.clip(codes, -127, 127)
    codes = codes * np.where(factor < 0, -1, 1).reshape((-1,) + (1,) * (codes.ndim - 1))
    scales = np.abs(factor) * scale
    dead = np.abs(bias) > _MAX_BIAS_CODE * scales * quantizer.scale
    dead |= scales < np.finfo(np.float32).tiny * 1e6
    codes[dead] = 0
    scales[dead] = np.maximum(np.abs(bias[dead]), 1e-6) / (2**20 * quantizer.scale)
    return codes.astype(np.int8), scales.astype(np.float32)


def lower(net: QNetwork, calibration=None) -> Graph:
    """The inference graph of `net`.

    Args:
        net: a static subnet in eval mode, its batch norm calibrated.
        calibration: for an int8 graph, batches of normalised images (N, 3, H, W) on which the ranges of tensors
            without a trained quantiser are observed; None gives a float graph.

    Raises:
        UserError: an int8 graph of a layer that was not trained in int8.
    """
    net = net.cpu()
    nodes: list[Node] = []
    x = INPUT
    for prefix, block in net.named_blocks():
        x = walk(block.spec, _GraphOps(prefix, block, nodes, calibration is not None), x)
    graph = Graph(nodes, net.resolution)
    if calibration is not None:
        graph.ranges = observe_ranges(net, calibration)
    return graph


class _RecordOps(TorchOps):
    """Runs a block and widens the range of every tensor it produces."""

    def __init__(self, block, prefix: str, ranges: dict):
        super().__init__(block)
        self.prefix, self.ranges = prefix, ranges

    def _seen(self, name: str, x: torch.Tensor) -> torch.Tensor:
        low, high = x.min().item(), x.max().item()
        name = f"{self.prefix}.{name}"
        known = self.ranges.get(name, (low, high))
        self.ranges[name] = (min(low, known[0]), max(high, known[1]))
        return x

    def conv(self, x, layer):
        return self._seen(layer.name, super().conv(x, layer))

    def act(self, x, kind, name):
        return self._seen(name, super().act(x, kind, name))

    def pool(self, x, name):
        return self._seen(name, super().pool(x, name))

    def mul(self, x, gate, name):
        return self._seen(name, super().mul(x, gate, name))

    def add(self, shortcut, x, name):
        return self._seen(name, super().add(shortcut, x, name))


def observe_ranges(net: QNetwork, batches) -> dict[str, tuple[float, float]]:
    """Minimum and maximum of every tensor of `net` over `batches` of images."""
    ranges: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for images in batches:
            x = resize(images, net.resolution)
            for prefix, block in net.named_blocks():
                x = walk(block.spec, _RecordOps(block, prefix, ranges), x)
    return ranges
