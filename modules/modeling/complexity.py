"""Multiply-accumulates and parameters, as exact integers from the specs."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, BlockSpec, ConvSpec, LinearSpec, output_size
from modules.modeling.walk import walk

QUANTIZER_PARAMETERS = 3  # weight scale, activation scale, activation offset of each convolution or linear layer


@dataclass(frozen=True)
class LayerCount:
    """One layer's multiply-accumulates and the sizes of its parameter tensors, in the order of registration.

    The norm of a convolution is a layer of its own, with no multiply-accumulates.
    """

    layer: str
    macs: int
    parameters: tuple[int, ...]


def count_conv(spec: ConvSpec, hw: tuple[int, int]) -> tuple[list[LayerCount], tuple[int, int]]:
    """Counts of one `ConvSpec` on an input of `hw` pixels, and the output's height and width."""
    counts = []
    for stride in spec.strides:
        hw = (output_size(hw[0], stride), output_size(hw[1], stride))
        sizes = (spec.weight_size, *((spec.cout,) if spec.bias else ()), *(1,) * QUANTIZER_PARAMETERS)
        counts.append(LayerCount(spec.name, spec.weight_size * hw[0] * hw[1], sizes))
    if spec.norm:
        counts.append(LayerCount(spec.name, 0, (spec.cout, spec.cout)))
    return counts, hw


class _CountOps:
    """Walk backend whose value is the pair (height, width)."""

    def __init__(self):
        self.counts: list[LayerCount] = []

    def conv(self, x, layer):
        counts, hw = count_conv(layer, x)
        self.counts += counts
        return hw

    def linear(self, x, layer: LinearSpec):
        sizes = (layer.cin * layer.cout, layer.cout, *(1,) * QUANTIZER_PARAMETERS)
        self.counts.append(LayerCount(layer.name, layer.cin * layer.cout, sizes))
        return x

    def pool(self, x, name):
        return (1, 1)

    def act(self, x, kind, name):
        return x

    def mul(self, x, gate, name):
        return x

    def add(self, shortcut, x, name):
        return x


@lru_cache(maxsize=200_000)
def count_block(block: BlockSpec, hw: tuple[int, int]) -> tuple[tuple[LayerCount, ...], tuple[int, int]]:
    """Counts of every layer of `block` on an input of `hw` pixels, in the published order of registration, and the
    output's height and width."""
    ops = _CountOps()
    out = walk(block, ops, hw)
    counts = ops.counts
    if block.registration:
        position = {name: i for i, name in enumerate(block.registration)}
        counts = sorted(counts, key=lambda count: position[count.layer.split(".")[0]])
    return tuple(counts), out


def with_sizes(blocks: Iterable[BlockSpec], hw: tuple[int, int]) -> Iterator[tuple[BlockSpec, tuple[int, int]]]:
    """Each of `blocks` with the height and width of its input; the first one's input has `hw` pixels."""
    for block in blocks:
        yield block, hw
        hw = count_block(block, hw)[1]


def count_net_flops_and_params(net, input_shape=None) -> tuple[float, float]:
    """Multiply-accumulates and parameters of a network, both in millions.

    As in the published evaluation, convolutions and the linear layer count; batch norm, biases, activations, pooling
    and additions do not. All parameters count, the three quantiser scalars of each layer too.

    Args:
        net: a `NetSpec`, or a module with a `.spec` that is one (`QNetwork`).
        input_shape: (..., height, width) in pixels; the network's own resolution when None.
    """
    spec: NetSpec = net if isinstance(net, NetSpec) else net.spec
    hw = tuple(input_shape[-2:]) if input_shape is not None else (spec.resolution, spec.resolution)
    macs = parameters = 0
    for block, size in with_sizes((block for _, block in spec.blocks), hw):
        counts, _ = count_block(block, size)
        macs += sum(c.macs for c in counts)
        parameters += sum(sum(c.parameters) for c in counts)
    return macs / 1e6, parameters / 1e6


Sized = tuple[BlockArgs, tuple[int, int]]


def blocks_of(spec: NetSpec) -> list[Sized]:
    """The blocks of a network, each with the height and width of its input in pixels, such as (56, 56)."""
    hw = (spec.resolution, spec.resolution)
    return [(block.args, size) for block, size in with_sizes((block for _, block in spec.blocks), hw)]
