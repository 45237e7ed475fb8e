"""The search spaces of Zen-NAS: mutations of a structure, start of a search, and its limits."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modules.search_space.networks.structure import FAMILIES, Structure, SuperBlock, round_to

RATIOS = (2.5, 2, 1.5, 1.25, 1, 1 / 1.25, 1 / 1.5, 1 / 2, 1 / 2.5)
_LAYERS = (-2, -1, 0, 1, 2)
_REPLACED = 2  # blocks per mutation
_MOST_WIDTH, _MOST_BOTTLENECK = 2048, 512


@dataclass(frozen=True)
class ZenSpace:
    """Super-blocks that a residual block may become, and bounds of the widths.

    One ratio changes the output and the hidden width of a block together. In `origin` mode, that of Zen-NAS itself,
    each has its own ratio and hidden widths may be larger; with `frozen` the last convolution keeps its width.
    """

    name: str
    blocks: tuple[str, ...]
    start: str
    resolution: int
    classes: int
    max_layers: int
    frozen: bool = False
    origin: bool = False

    def mutate(self, structure: Structure, rng: np.random.Generator) -> Structure:
        """A copy of `structure` with two blocks replaced (one, if the draws coincide)."""
        blocks = list(structure.blocks)
        for i in dict.fromkeys(rng.integers(len(blocks), size=_REPLACED).tolist()):
            if not (self.origin and self.frozen and i == len(blocks) - 1):
                blocks[i] = self._replace(blocks[i], rng)
        return replace(structure, blocks=tuple(blocks)).chained()

    def _replace(self, block: SuperBlock, rng) -> SuperBlock:
        widths = _widths(block.cout)
        if not block.residual:
            return replace(block, cout=widths[rng.integers(len(widths))])
        if self.origin:
            bottlenecks = _widths(block.bottleneck)
            width, bottleneck = widths[rng.integers(len(widths))], bottlenecks[rng.integers(len(bottlenecks))]
        else:
            ratio = RATIOS[rng.integers(len(RATIOS))]
            width = min(round_to(block.cout * ratio), _MOST_WIDTH)
            bottleneck = min(round_to(block.bottleneck * ratio), _MOST_BOTTLENECK)
        depths = [block.sub_layers + more for more in _LAYERS if block.sub_layers + more > 0]
        return replace(block, name=self.blocks[rng.integers(len(self.blocks))], cout=width, bottleneck=bottleneck,
                       sub_layers=depths[rng.integers(len(depths))])


def _widths(width: int) -> list[int]:
    return sorted({min(round_to(width * ratio), _MOST_WIDTH) for ratio in RATIOS})


def _named(*units: str) -> tuple[str, ...]:
    return tuple(name for name, family in FAMILIES.items() if family.unit in units)


_DENSE, _INVERTED = _named("ZenBottleneck", "ZenKK"), _named("ZenInverted")
SPACES = {space.name: space for space in (
    ZenSpace("cifar", _DENSE,
             "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,1,8,1)SuperResK3K3(16,32,2,16,1)SuperResK3K3(32,64,2,32,1)"
             "SuperResK3K3(64,64,2,32,1)SuperConvK1BNRELU(64,128,1,1)", 32, 100, 18),
    ZenSpace("flops", _INVERTED,
             "SuperConvK3BNRELU(3,8,2,1)SuperResIDWE6K3(8,32,2,8,1)SuperResIDWE6K3(32,48,2,32,1)"
             "SuperResIDWE6K3(48,96,2,48,1)SuperResIDWE6K3(96,128,2,96,1)SuperConvK1BNRELU(128,2048,1,1)",
             224, 1000, 14, frozen=True),
    ZenSpace("latency", _DENSE,
             "SuperConvK3BNRELU(3,32,2,1)SuperResK3K3(32,64,2,32,1)SuperResK3K3(64,128,2,64,1)"
             "SuperResK3K3(128,256,2,128,1)SuperResK3K3(256,512,2,256,1)SuperConvK1BNRELU(512,512,1,1)",
             224, 1000, 10),
)}


@dataclass(frozen=True)
class Preset:
    """A published search: its space, its one budget (parameters, multiply-accumulates, or ms) and its depth."""

    space: str
    layers: int
    model_size: float | None = None
    flops: float | None = None
    latency: float | None = None

    batch_size = 64


PRESETS = {
    "cifar_1M": Preset("cifar", 18, model_size=1e6), "cifar_2M": Preset("cifar", 20, model_size=2e6),
    "flops_400M": Preset("flops", 14, flops=4e8), "flops_600M": Preset("flops", 14, flops=6e8),
    "flops_800M": Preset("flops", 16, flops=8e8),
    **{f"latency_{ms}ms": Preset("latency", layers, latency=ms) for ms, layers in (
        (0.1, 10), (0.2, 13), (0.3, 16), (0.5, 20), (0.8, 25), (1.2, 30))},
}


def first_preset(space: str) -> str:
    """The preset with the default budget of a search of `space`."""
    return next(name for name, preset in PRESETS.items() if preset.space == space)
