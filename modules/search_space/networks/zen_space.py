"""The search spaces of Zen-NAS: mutations of a structure, start of a search, and its limits."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, replace
from pathlib import Path

import numpy as np

from modules.search_space.networks.structure import FAMILIES, Structure, SuperBlock, find_family, round_to
from modules.utils.errors import UserError, shorten
from modules.utils.files import is_file
from modules.utils.settings import PIXELS, read_settings, read_yaml, setting

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
    blocks: tuple[str, ...] = setting(MISSING, "names of the residual super-blocks", many="+")
    start: str = setting(MISSING, "first structure of a search, as a string")
    resolution: int = setting(MISSING, "image size", **PIXELS)
    classes: int = setting(1000, "classes", low=2, high=10**6)
    max_layers: int = setting(18, "most layers", low=1)
    frozen: bool = setting(False, "the last convolution keeps its width in origin mode")
    origin: bool = False

    def mutate(self, structure: Structure, rng: np.random.Generator) -> Structure:
        """A copy of `structure` with two blocks replaced (one, if the draws coincide)."""
        blocks = list(structure.blocks)
        for i in dict.fromkeys(rng.integers(len(blocks), size=_REPLACED).tolist()):
            if not (self.origin and self.frozen and i == len(blocks) - 1):
                blocks[i] = self._replace(blocks[i], rng)
        return replace(structure, blocks=tuple(blocks)).chained()

    def draw(self, rng: np.random.Generator) -> Structure:
        """A random structure of 6 to 10 super-blocks of one sub-layer, with as many strides of 2 as the start (and more
        blocks, if the start has so many).

        The strides lie as in the published draw: the last one halfway to the end, all others at the beginning.
        Widths are multiples of 8 up to 120; the first block is the start's.
        """
        start = Structure.parse(self.start)
        strided = sum(block.stride > 1 for block in start.blocks[1:])
        first, count = start.blocks[0], int(rng.integers(max(6, strided + 2), max(11, strided + 3)))
        places = {*range(1, strided), round((strided - 1 + count - 1) / 2)} if strided else set()
        blocks = [first]
        for i in range(1, count - 1):
            width, hidden = (8 * int(rng.integers(1, 16)) for _ in range(2))
            name = self.blocks[rng.integers(len(self.blocks))]
            blocks.append(SuperBlock(name, blocks[-1].cout, width, 2 if i in places else 1, hidden, 1))
        last = SuperBlock("SuperConvK1BNRELU", blocks[-1].cout, 8 * int(rng.integers(1, 16)), 1, 0, 1)
        return Structure((*blocks, last), start.use_se)

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


# Files of the published program that stand for a space or some of its blocks, without .py.
PUBLISHED_SPACES = {"search_space_XXBL": "latency", "search_space_IDW_fixfc": "flops"}
PUBLISHED_BLOCKS = {"SuperResKXKX": _named("ZenKK"), "SuperResK1KXK1": _named("ZenBottleneck"),
                    "SuperResIDWEXKX": _INVERTED}


def read_space(text: str) -> ZenSpace:
    """The space `text`: a name here, a file name of the published program, or a yaml file:

        blocks: [SuperResIDWE3K3, SuperResIDWE3K9]
        start: SuperConvK3BNRELU(3,8,1,1)SuperResIDWE3K3(8,16,2,16,1)SuperConvK1BNRELU(16,128,1,1)
        resolution: 32

    Raises:
        UserError: an unknown space, key or block; a missing value; a start that is no structure.
    """
    name = Path(text).stem
    if text in SPACES or name in PUBLISHED_SPACES:
        return SPACES[PUBLISHED_SPACES.get(name, text)]
    if not is_file(text):
        raise UserError(f"space {shorten(text)}; allowed: {', '.join(SPACES)}, or a yaml file with blocks, start and "
                        "resolution")
    values = read_settings(ZenSpace, read_yaml(text, "search space"), text)
    for key in ("blocks", "start", "resolution"):
        if key not in values:
            raise UserError(f"search space {text!r} has no {key}; expected blocks, start and resolution")
    return replace(ZenSpace(name, **values), blocks=check_blocks(values["blocks"]),
                   start=str(Structure.parse(values["start"])))


def check_blocks(names: Iterable[str]) -> tuple[str, ...]:
    """The block names of a list; an entry is a residual super-block, or a file of the published program with
    several."""
    found = []
    for name in names:
        family = find_family(name)
        if Path(name).stem in PUBLISHED_BLOCKS:
            found += PUBLISHED_BLOCKS[Path(name).stem]
        elif family is None or family.unit == "Conv":
            raise UserError(f"block {shorten(name)} of a search space; allowed: {', '.join(_DENSE + _INVERTED)}, or "
                            "like them with another odd kernel size or expansion")
        else:
            found.append(name)
    return tuple(dict.fromkeys(found))


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


def first_preset(space: str) -> Preset:
    """The preset with the default budget of a search of `space`; a user's own space has none."""
    return next((preset for preset in PRESETS.values() if preset.space == space), Preset(space, 0))
