"""The sizes of a structure in the units of the published search budgets."""
from __future__ import annotations

from modules.modeling.spec import BlockSpec, ConvSpec, LinearSpec, SESpec
from modules.search_space.networks.structure import Structure
from modules.zero_shot.network import structure_net


def _layers(block: BlockSpec) -> list:
    return [layer for layer in block.layers if layer.used]


def published_counts(structure: Structure, resolution: int, classes: int) -> tuple[int, int]:
    """FLOPs and model size as the published program counts them.

    A norm counts one operation per value and one parameter per channel. The shortcut's bias is left out, and the
    classifier has one bias. A strided shortcut is counted at a resolution divided by its stride twice.
    """
    flops, size, spec = 0.0, 0, structure_net(structure, resolution, classes)
    for _, block in spec.blocks:
        for layer in _layers(block):
            if isinstance(layer, LinearSpec):
                flops, size = flops + layer.cin * layer.cout, size + layer.cin * layer.cout + 1
            elif isinstance(layer, SESpec):
                weights = 2 * layer.channels * layer.mid
                flops += weights + layer.channels * (1 + resolution**2)
                size += weights + 2 * (layer.mid + layer.channels)
            elif isinstance(layer, ConvSpec):
                if layer is block.downsample:
                    pixels = (resolution / layer.stride) ** 2
                else:
                    resolution //= layer.stride
                    pixels = resolution**2
                flops += (layer.weight_size + layer.cout) * pixels
                size += layer.weight_size + layer.cout
    return int(flops), size
