"""The MicroNet score: storage and operations, each relative to a reference network, lower is better.

It is counted as the published repository counts it; `counting` has the challenge's own rules.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import lcm

import torch

from modules.adjustable.config import GAMMA
from modules.deploy.graph.graph import INPUT, Node, WeightNode
from modules.modeling.spec import output_size

MICRONET = 6.9e6, 1170e6  # storage and operations of MobileNetV2-1.4 on ImageNet
FULL, FIXED = 32, 8  # bits of a value that is not quantised; of biases, images and inputs of activations
SWISH_OPERATIONS = 3  # for each value
SMOOTH = ("swish", "hswish")
IMAGENET_CLASSES = 1000  # classes, besides which TensorFlow's networks have one for the background
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class LayerCost:
    """A convolution or linear layer: parameters and multiply-accumulates, bits per weight channel and per channel of
    its input ((channels,) each; None: 8, of the image). `paired`: channel i meets channel i alone (depthwise)."""

    parameters: int
    macs: int
    weight_bits: torch.Tensor
    input_bits: torch.Tensor | None
    paired: bool = False
    name: str = ""

    @property
    def storage(self) -> torch.Tensor:
        """Parameters in units of 32 bits."""
        return self.parameters * self.weight_bits.mean() / FULL

    def operations(self, gamma: float = GAMMA, pairing: str = "all"):
        """Multiplications and additions in units of 32 bits, at the bits of the products' operands; the gradient goes
        to weights and activations in shares 1 - `gamma` and `gamma`, whichever is larger."""
        if self.input_bits is None:
            return 2 * self.macs * FIXED / FULL  # the image decides, whatever the weights have
        mixed = (1 - gamma) * self.weight_bits.mean() + gamma * self.input_bits.mean()
        with torch.no_grad():
            exact = pair_bits(self.weight_bits, self.input_bits, self.paired, pairing)
        return 2 * self.macs * (mixed + (exact - mixed).detach()) / FULL


def pair_bits(weight: torch.Tensor, activation: torch.Tensor, paired: bool, pairing: str = "all") -> torch.Tensor:
    """Mean bits of a product, the larger of its operands': over all pairs of channels, or channel by channel.

    With the `pairing` "tile" as the published repository has it: product k < len(weight) len(activation) has the weight
    channel k mod len(weight) and the activation channel k mod len(activation). These are all pairs only where the two
    numbers have no common divisor; 2 and 2 channels meet as 0-0 and 1-1.

    Args:
        weight, activation: (channels,) bits each, such as (2, 4) and (3,), whose products have 3.5 bits on average.
        paired: channel by channel, of equally many (a depthwise convolution).

    Returns:
        A scalar, differentiable.
    """
    if pairing == "tile":
        k = torch.arange(lcm(len(weight), len(activation)), device=weight.device)
        return torch.maximum(weight[k % len(weight)], activation[k % len(activation)]).mean()
    if paired:
        return torch.maximum(weight, activation).mean()
    # Mean of max over all pairs without the pairs: every weight counts for the activations that are not larger.
    ordered = activation.sort()[0]
    sums = ordered.flip(0).cumsum(0).flip(0)  # of this activation and all larger ones
    below = torch.searchsorted(ordered, weight.contiguous(), right=True)
    rest = torch.cat((sums, sums.new_zeros(1)))[below]
    return (weight * below + rest).mean() / len(activation)


def micronet_score(layers: list[LayerCost], biases: int = 0, smooth_values: int = 0, gamma: float = GAMMA,
                   norms: str = "micronet", pairing: str = "all", bias_bits: float = FIXED,
                   swish_bits: float = FIXED) -> torch.Tensor:
    """The score of the MicroNet challenge (NeurIPS 2019), counted as in the published repository: storage and
    operations in units of 32 bits, each divided by a norm, added up. A scalar, differentiable; EfficientNet-B0 at 8
    bits has 0.359725.

    Multiplications and additions count once each at the bits of the products' operands; `biases` and three operations
    for each of the `smooth_values` that pass a swish have bits of their own.

    Args:
        layers, biases, smooth_values: of `layer_costs`.
        gamma: share of the operations' gradient that goes to the bits of activations.
        norms: "micronet", those of the challenge (6.9e6 and 1170e6), or "own", those of the network in 32 bits.
        pairing: as of `pair_bits`.
        bias_bits, swish_bits: 1 to 32.
    """
    if norms == "own":
        storage_norm = sum(layer.parameters for layer in layers) + biases
        operations_norm = 2 * sum(layer.macs for layer in layers)
    else:
        storage_norm, operations_norm = MICRONET
    storage, operations = biases * bias_bits / FULL, SWISH_OPERATIONS * smooth_values * swish_bits / FULL
    for layer in layers:
        storage = storage + layer.storage
        operations = operations + layer.operations(gamma, pairing)
    return storage / storage_norm + operations / operations_norm


Bits = Callable[[WeightNode], tuple[torch.Tensor, torch.Tensor | None]]  # of a layer's weight and of its input


def layer_costs(nodes: Sequence[Node], shapes: dict[str, Shape], bits: Bits) -> tuple[list[LayerCost], int, int]:
    """The arguments of `micronet_score`: layers, number of biases that stand for norms, values that pass a swish.

    A layer's own bias counts with its weight. So does TensorFlow's class for the background with the 1000 of ImageNet,
    as published: its weights are stored, and are not multiplied.
    """
    layers, biases, smooth = [], 0, 0
    for node in nodes:
        channels, height, width = shapes[node.output]
        if isinstance(node, WeightNode):
            weight_bits, input_bits = bits(node)
            own = len(node.bias) if node.bias_from == "layer" else 0
            background = node.weight.shape[1] + 1 if node.op == "linear" and len(node.bias) == IMAGENET_CLASSES else 0
            layers.append(LayerCost(node.weight.size + own + background, node.weight.size * height * width, weight_bits,
                                    None if node.inputs[0] == INPUT else input_bits, node.groups > 1, node.output))
            biases += len(node.bias) if node.bias_from == "norm" else 0
        elif node.kind in SMOOTH:
            smooth += channels * height * width
    return layers, biases, smooth


def tensor_shapes(nodes: Iterable[Node], source: Shape) -> dict[str, Shape]:
    """(channels, height, width) of every tensor that `nodes` read or give, the image's being `source`."""
    shapes = {INPUT: source}
    for node in nodes:
        channels, height, width = shapes[node.inputs[0]]
        if isinstance(node, WeightNode):
            channels, height, width = len(node.bias), *(output_size(size, node.stride) for size in (height, width))
        elif node.op == "pool":
            height = width = 1
        shapes[node.output] = channels, height, width
    return shapes
