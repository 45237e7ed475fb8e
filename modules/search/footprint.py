"""Costs of an int8 network other than time: multiply-accumulates, parameters, size of its file, memory while it runs.

All follow from the specs. No torch code.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from modules.modeling.complexity import count_block, count_net_flops_and_params, with_sizes
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockSpec, ConvSpec, LinearSpec, output_size
from modules.modeling.walk import walk

# Bytes of an int8 ONNX file, fitted to files of modules.deploy.to_onnx. A channel has the scale and the zero point of
# its weights, and code, scale and zero point of its bias.
_CHANNEL_BYTES, _LAYER_BYTES, _ACT_BYTES, _OTHER_BYTES, _MODEL_BYTES = 17, 1350, 1500, 500, 2000
_BIAS_BYTES = 4
_FUSED = ("relu", "relu6")  # activations without an operator of their own


@dataclass(frozen=True)
class Footprint:
    """Costs of a network or a part of one: numbers, or arrays of shape (n,) for n of them.

    `mflops` and `params` are millions of multiply-accumulates and parameters, counted by `count_net_flops_and_params`.
    The others are in MB (10^6 bytes): `file_mb` is the predicted size of the int8 ONNX file, `weight_mb` that of
    weights (int8) and biases (int32) alone, and `activation_mb` the peak size of activations.

    A sum of two footprints is that of parts that run one after the other: their activations do not live at the same
    time.
    """

    mflops: float | np.ndarray = 0.0
    params: float | np.ndarray = 0.0
    file_mb: float | np.ndarray = 0.0
    weight_mb: float | np.ndarray = 0.0
    activation_mb: float | np.ndarray = 0.0

    @property
    def memory_mb(self) -> float | np.ndarray:
        """Peak memory of int8 inference: the weights, and the activations of the largest step."""
        return self.weight_mb + self.activation_mb

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.mflops + other.mflops, self.params + other.params, self.file_mb + other.file_mb,
                         self.weight_mb + other.weight_mb, np.maximum(self.activation_mb, other.activation_mb))


BARE_FILE = Footprint(file_mb=_MODEL_BYTES / 1e6)  # of a file without layers


def net_footprint(spec: NetSpec) -> Footprint:
    """The footprint of a network at its own resolution, for example 300 M, 5 M, 5.6 MB, 5.2 MB and 0.6 MB.

    `file_mb` is within 1% of the file (networks of 0.4 to 50 MB were tried).
    """
    layers = blocks_footprint((block for _, block in spec.blocks), (spec.resolution, spec.resolution))
    mflops, params = count_net_flops_and_params(spec)  # exact; sums of parts are rounded
    return replace(layers + BARE_FILE, mflops=mflops, params=params)


def blocks_footprint(blocks: Iterable[BlockSpec], hw: tuple[int, int]) -> Footprint:
    """The footprint of `blocks` in sequence, on an input of `hw` pixels."""
    return sum((_block_footprint(block, size) for block, size in with_sizes(blocks, hw)), Footprint())


@lru_cache(maxsize=200_000)
def _block_footprint(block: BlockSpec, hw: tuple[int, int]) -> Footprint:
    counts, _ = count_block(block, hw)
    ops = _SizeOps()
    walk(block, ops, ops.tensor(block.args.cin, hw))
    return Footprint(sum(c.macs for c in counts) / 1e6, sum(sum(c.parameters) for c in counts) / 1e6,
                     ops.file / 1e6, ops.weights / 1e6, ops.peak_activations() / 1e6)


@dataclass(frozen=True)
class _Tensor:
    """Number `index` of the activations of a block, of one byte a value."""

    index: int
    channels: int
    hw: tuple[int, int]

    @property
    def size(self) -> int:
        return self.channels * self.hw[0] * self.hw[1]


class _SizeOps:
    """Walk backend that adds up bytes of weights and file, and records the tensors that each step reads and writes.

    A convolution and the classifier, the mean, the product with a gate and the sum write a new tensor; an activation
    overwrites its input.
    """

    def __init__(self):
        self.weights = self.file = 0
        self.tensors: list[_Tensor] = []
        self.steps: list[tuple[tuple[_Tensor, ...], _Tensor]] = []

    def tensor(self, channels: int, hw: tuple[int, int]) -> _Tensor:
        """A new tensor."""
        self.tensors.append(_Tensor(len(self.tensors), channels, hw))
        return self.tensors[-1]

    def conv(self, x, layer: ConvSpec):
        for stride in layer.strides:
            self._layer(layer.weight_size, layer.cout)
            x = self._step((x,), layer.cout, (output_size(x.hw[0], stride), output_size(x.hw[1], stride)))
        return x

    def linear(self, x, layer: LinearSpec):
        self._layer(layer.cin * layer.cout, layer.cout)
        return self._step((x,), layer.cout, (1, 1))

    def pool(self, x, name):
        return self._other((x,), x.channels, (1, 1))

    def act(self, x, kind, name):
        self.file += _ACT_BYTES * (kind not in _FUSED)
        return x

    def mul(self, x, gate, name):
        return self._other((x, gate), x.channels, x.hw)

    def add(self, shortcut, x, name):
        return self._other((shortcut, x), x.channels, x.hw)

    def peak_activations(self) -> int:
        """Bytes of the tensors of the largest step: those that it reads, the one that it writes, and those that a later
        step reads."""
        last_read = {tensor: number for number, (read, _) in enumerate(self.steps) for tensor in read}
        peak, alive = 0, {self.tensors[0]}
        for number, (_, written) in enumerate(self.steps):
            alive.add(written)
            peak = max(peak, sum(tensor.size for tensor in alive))
            alive = {tensor for tensor in alive if last_read.get(tensor, -1) > number or tensor is written}
        return peak

    def _layer(self, weights: int, channels: int) -> None:
        self.weights += weights + _BIAS_BYTES * channels
        self.file += weights + _CHANNEL_BYTES * channels + _LAYER_BYTES

    def _other(self, read: tuple[_Tensor, ...], channels: int, hw: tuple[int, int]) -> _Tensor:
        self.file += _OTHER_BYTES
        return self._step(read, channels, hw)

    def _step(self, read: tuple[_Tensor, ...], channels: int, hw: tuple[int, int]) -> _Tensor:
        self.steps.append((read, self.tensor(channels, hw)))
        return self.steps[-1][1]
