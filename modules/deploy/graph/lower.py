"""Lowering of a static subnet: fold batch norm, keep the trained integers, calibrate the tensors that training left in
float."""
from __future__ import annotations

import numpy as np
import torch

from modules.deploy.graph.builder import build_graph
from modules.deploy.graph.graph import INPUT, Graph, Quantizer, WeightNode
from modules.deploy.graph.ranges import best_ranges
from modules.modeling.codes import activation_levels, integer_zero_point, is_dead, weight_bounds
from modules.modeling.integer_bias import fold_norm, weight_scales
from modules.modeling.network import QNetwork
from modules.modeling.placement import HARD_SIGMOID_SHIFT
from modules.modeling.placement import INPUT as BLOCK_INPUT
from modules.modeling.spec import ConvSpec
from modules.search_space.superspace import INPUT_CHANNELS
from modules.utils.errors import UserError


class TrainedWeights:
    """Reads layers from the modules of a trained network."""

    def __init__(self, net: QNetwork, int8: bool):
        self.blocks, self.int8 = dict(net.named_blocks()), int8
        self.quantizers = _tensor_quantizers(self.blocks) if int8 else {}

    def fill(self, node: WeightNode, block: str, layer, index: int) -> None:
        module, norm = self.blocks[block].get_submodule(layer.name), None
        if isinstance(layer, ConvSpec) and layer.norm:
            convs = list(module.dwconv.values()) if layer.stack else [module.dwconv if layer.depthwise else module.conv]
            norm = module.norm if index == len(convs) - 1 else None
            module = convs[index]
        factor, bias = _folded_norm(module, norm)
        weight = module.weight.detach().double().numpy()
        node.weight = (weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1))).astype(np.float32)
        node.bias = bias.astype(np.float32)
        _check_finite(node.output, weight=node.weight, bias=node.bias)
        if self.int8:
            _check_trained(module, node.output)
            node.quantizer = self.quantizers.get(node.inputs[0]) or _quantizer(module, node.output)
            gate = isinstance(layer, ConvSpec) and layer.act == "hard_sigmoid"
            moved = node.bias + HARD_SIGMOID_SHIFT if gate else node.bias
            _check_scale(node.output, "weight scale", abs(module.weight_scale.item()))
            node.codes, node.scales = _weight_codes(module, weight, factor, moved, node.quantizer)


def _folded_norm(module, norm) -> tuple[np.ndarray, np.ndarray]:
    """Factor and bias (out,) in float64 that replace the norm and the layer's own bias."""
    bias = np.zeros(module.weight.shape[0])
    if module.bias is not None:
        bias = module.bias.detach().double().numpy()
    if norm is None:
        return np.ones_like(bias), bias
    factor, shift = (t.numpy() for t in fold_norm(norm, len(bias)))
    return factor, shift + bias * factor


def _tensor_quantizers(blocks) -> dict[str, Quantizer]:
    """The quantisers that tensors own (placement "engine"), by the tensor's name in the graph."""
    owned = {}
    for prefix, block in blocks.items():
        for module in block.tensors.values():
            name = INPUT if module.tensor == BLOCK_INPUT else f"{prefix}.{module.tensor}"
            _check_trained(module, name)
            owned[name] = _quantizer(module, name)
    return owned


def _check_trained(module, name: str) -> None:
    weights, activations = hasattr(module, "weight_scale"), not module.quantized_input
    started = (not weights or module._started[0]) and (not activations or module._started[1])
    if (module.nbits_w <= 8) != weights or module.nbits_a != (8 if activations else 32) or not started:
        raise UserError(f"layer {name!r} is not a trained int8 layer; export needs an LSQ+ checkpoint (lsq.pth)")


def _check_finite(layer: str, **values: np.ndarray) -> None:
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise UserError(f"layer {layer!r}: its {name} with the batch norm folded in holds values that are not "
                            "finite; nothing can be exported")


def _check_scale(layer: str, name: str, scale: float) -> None:
    if not (np.isfinite(scale) and scale > 0):
        raise UserError(f"layer {layer!r}: its {name} is {scale}; the step of a quantiser is finite and above 0")


def _quantizer(module, name: str) -> Quantizer:
    scale, beta = (np.float32(value.item()) for value in module.effective())
    scale = abs(scale)
    _check_scale(name, "activation scale", scale)
    _check_finite(name, **{"activation offset": beta})
    return Quantizer(scale, int(integer_zero_point(scale, beta, activation_levels(8))))


def _weight_codes(module, weight, factor, bias, quantizer):
    scale = np.float32(abs(module.weight_scale.item()))
    low, high = weight_bounds(module.nbits_w, module.narrow_range)
    # float32 arithmetic, as in training: the codes are the trained ones
    codes = np.round(np.clip(weight.astype(np.float32) / scale, low, high))
    # A published weight may hold code -128. It has no negative; engines are fastest with the symmetric range.
    codes = np.clip(codes, -127, 127)
    codes = codes * np.where(factor < 0, -1, 1).reshape((-1,) + (1,) * (codes.ndim - 1))
    scales = weight_scales(torch.from_numpy(factor), module.weight_scale).numpy()
    return silence_dead(codes.astype(np.int8), scales, bias, quantizer)


def silence_dead(codes: np.ndarray, scales: np.ndarray, bias: np.ndarray, quantizer: Quantizer
                 ) -> tuple[np.ndarray, np.ndarray]:
    """`codes` and `scales` of a weight in which channels whose bias has no integer at the products' scale keep the bias
    alone; changed in place."""
    dead = is_dead(bias, scales, quantizer.scale)
    codes[dead] = 0
    scales[dead] = np.maximum(np.abs(bias[dead].astype(np.float64)), 1e-6) / (2**20 * quantizer.scale)
    return codes, scales


def lower(net: QNetwork, calibration=None, source: str = "") -> Graph:
    """The inference graph of `net`.

    Args:
        net: a static subnet in eval mode, its batch norm calibrated.
        calibration: for an int8 graph, batches of normalised images (N, 3, H, W), such as (32, 3, 224, 224). They give
            the ranges of tensors without a trained quantiser. None gives a float graph.
        source: the checkpoint, for messages.

    Raises:
        UserError: an int8 graph of a layer that was not trained in int8; a weight, bias or scale that is not finite, or
            a scale of 0.
    """
    try:
        return _lower(net.cpu(), calibration)
    except UserError as error:
        raise UserError(f"{source}: {error}" if source else str(error)) from None


def _lower(net: QNetwork, calibration) -> Graph:
    weights = TrainedWeights(net, int8=calibration is not None)
    blocks = [(prefix, block.spec) for prefix, block in net.named_blocks()]
    graph = build_graph(blocks, weights, (INPUT_CHANNELS, net.resolution, net.resolution))
    if calibration is not None:
        graph.quantizers = weights.quantizers
        graph.ranges = best_ranges(net, graph, list(calibration))
    return graph
