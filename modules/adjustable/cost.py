"""The MicroNet score: storage and operations, each relative to a reference network, lower is better."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from modules.adjustable.config import GAMMA

MICRONET = 6.9e6, 1170e6  # storage and operations of MobileNetV2-1.4 on ImageNet
_FULL, _FIXED = 32, 8


@dataclass(frozen=True)
class LayerCost:
    """A convolution or linear layer: parameters and multiply-accumulates, bits per weight channel and per channel of
    its input ((channels,) each; None: 8, of the image). `paired`: channel i meets channel i alone (depthwise)."""

    parameters: int
    macs: int
    weight_bits: torch.Tensor
    input_bits: torch.Tensor | None
    paired: bool = False


def pair_bits(weight: torch.Tensor, activation: torch.Tensor, paired: bool) -> torch.Tensor:
    """Mean bits of a product, the larger of its operands': over all pairs of channels, or channel by channel."""
    if paired:
        return torch.maximum(weight, activation).mean()
    # Mean of max over all pairs without the pairs: every weight counts for the activations that are not larger.
    ordered = activation.sort()[0]
    sums = ordered.flip(0).cumsum(0).flip(0)  # of this activation and all larger ones
    below = torch.searchsorted(ordered, weight, right=True)
    rest = torch.cat((sums, sums.new_zeros(1)))[below]
    return (weight * below + rest).mean() / len(activation)


def micronet_score(layers: list[LayerCost], biases: int = 0, smooth_values: int = 0, gamma: float = GAMMA,
                   norms: str = "micronet") -> torch.Tensor:
    """Storage and operations in units of 32 bits, each divided by a norm, added up.

    Multiplications and additions count once each at the bits of the products' operands; `biases` of 8 bits and three
    operations of 8 bits for each of the `smooth_values` that pass a swish. The gradient of the operations goes to
    weights and activations in shares 1 - `gamma` and `gamma`, whichever is larger. The norms are the challenge's, or
    the network's own in 32 bits.
    """
    if norms == "own":
        storage_norm = sum(layer.parameters for layer in layers) + biases
        operations_norm = 2 * sum(layer.macs for layer in layers)
    else:
        storage_norm, operations_norm = MICRONET
    storage, operations = biases * _FIXED / _FULL, 3 * smooth_values * _FIXED / _FULL
    for layer in layers:
        storage = storage + layer.parameters * layer.weight_bits.mean() / _FULL
        operations = operations + 2 * layer.macs * _product_bits(layer, gamma) / _FULL
    return storage / storage_norm + operations / operations_norm


def _product_bits(layer: LayerCost, gamma: float):
    if layer.input_bits is None:
        return _FIXED  # the image decides, whatever the weights have
    mixed = (1 - gamma) * layer.weight_bits.mean() + gamma * layer.input_bits.mean()
    with torch.no_grad():
        exact = pair_bits(layer.weight_bits, layer.input_bits, layer.paired)
    return mixed + (exact - mixed).detach()
