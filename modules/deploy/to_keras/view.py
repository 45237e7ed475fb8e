"""The Keras form of blocks and networks: one more reader of block specs.

The layers hold the float weights with batch norm folded in; the quantisers of int8 training are left out: they have no
Keras form. Tensors are (batch, height, width, channels), as in TensorFlow.
"""
from __future__ import annotations

import numpy as np

from modules.deploy.graph.builder import SyntheticWeights, Weights
from modules.deploy.graph.graph import INPUT, OUTPUT, WeightNode
from modules.deploy.graph.lower import TrainedWeights
from modules.deploy.to_keras.load import import_tensorflow
from modules.modeling.net_spec import NetSpec
from modules.modeling.network import QNetwork
from modules.modeling.spec import BlockSpec, ConvSpec
from modules.modeling.supernet import Supernet
from modules.modeling.walk import walk
from modules.search_space.superspace import INPUT_CHANNELS

_ACTIVATIONS = {"relu": "relu", "relu6": "relu6", "hswish": "hard_silu", "swish": "silu",
                "hard_sigmoid": "hard_sigmoid", "sigmoid": "sigmoid"}  # Keras's names


class KerasOps:
    """Walk backend whose value is a Keras tensor. `prefix` is the block's name: a key of `weights`, and the first part
    of layer names."""

    def __init__(self, prefix: str, weights: Weights):
        self.prefix, self.weights, self.layers = prefix, weights, import_tensorflow()[1].layers

    def conv(self, x, layer: ConvSpec):
        for i, stride in enumerate(layer.strides):
            name = f"{self.prefix}.{layer.name}" + (f".{i}" if i < len(layer.strides) - 1 else "")
            x = self._conv(x, layer, i, stride, name)
        return x

    def _conv(self, x, layer: ConvSpec, index: int, stride: int, name: str):
        weight, bias = self._numbers("conv", layer, index, name)
        if layer.depthwise:
            kind, kernel, width = self.layers.DepthwiseConv2D, weight.transpose(2, 3, 0, 1), {}
        else:
            kind, kernel, width = self.layers.Conv2D, weight.transpose(2, 3, 1, 0), {"filters": layer.cout}
        padding = "same"
        if stride > 1 and layer.kernel > 1 and not layer.same:  # "same" would pad less before the image than behind it
            x, padding = self.layers.ZeroPadding2D(layer.kernel // 2, name=f"{name}.pad")(x), "valid"
        module = kind(**width, kernel_size=layer.kernel, strides=stride, padding=padding, name=name)
        return self._filled(module, x, kernel, bias)

    def linear(self, x, layer):
        weight, bias = self._numbers("linear", layer, 0, OUTPUT)
        flat = self.layers.Flatten(name=f"{self.prefix}.flatten")(x)
        return self._filled(self.layers.Dense(layer.cout, name=OUTPUT), flat, weight.T, bias)

    def _numbers(self, op: str, layer, index: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        node = WeightNode(op, ("",), name)
        self.weights.fill(node, self.prefix, layer, index)
        return node.weight, node.bias

    @staticmethod
    def _filled(module, x, kernel: np.ndarray, bias: np.ndarray):
        y = module(x)
        module.set_weights([kernel, bias])
        return y

    def act(self, x, kind, name):
        return self.layers.Activation(_ACTIVATIONS[kind], name=f"{self.prefix}.{name}")(x)

    def pool(self, x, name):
        return self.layers.GlobalAveragePooling2D(keepdims=True, name=f"{self.prefix}.{name}")(x)

    def mul(self, x, gate, name):
        return self.layers.Multiply(name=f"{self.prefix}.{name}")([x, gate])

    def add(self, shortcut, x, name):
        return self.layers.Add(name=f"{self.prefix}.{name}")([shortcut, x])


def keras_blocks(blocks: list[tuple[str, BlockSpec]], weights: Weights, input_shape: tuple[int, int, int]):
    """`blocks` in sequence as a `keras.Model`.

    Args:
        blocks: pairs of name and structure, as in `QNetwork.named_blocks` and `NetSpec.blocks`.
        weights: source of the layers' weights.
        input_shape: (height, width, channels) of one input.

    Returns:
        The model: (N, H, W, C) to the last block's output, such as (N, 7, 7, 320), or (N, classes) of a classifier.

    Raises:
        UserError: TensorFlow is not installed.
    """
    keras = import_tensorflow()[1]
    x = source = keras.Input(input_shape, name=INPUT)
    for prefix, block in blocks:
        x = walk(block, KerasOps(prefix, weights), x)
    return keras.Model(source, x)


def keras_subnet(net: QNetwork):
    """A static subnet (eval mode) as a `keras.Model` with its weights: (N, R, R, 3), normalised, to logits."""
    blocks = [(name, block.spec) for name, block in net.named_blocks()]
    return keras_blocks(blocks, TrainedWeights(net, int8=False), (net.resolution, net.resolution, INPUT_CHANNELS))


def untrained_keras(spec: NetSpec):
    """The network of `spec` as a `keras.Model` with random weights, for timing."""
    shape = (spec.resolution, spec.resolution, INPUT_CHANNELS)
    return keras_blocks(list(spec.blocks), SyntheticWeights(int8=False), shape)


def get_active_tf_subnet(supernet: Supernet):
    """The active subnet of `supernet` as a `keras.Model` with a copy of its weights, batch norm in eval mode."""
    return keras_subnet(supernet.get_active_subnet().cpu().eval())
