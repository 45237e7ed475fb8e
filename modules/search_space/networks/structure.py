"""Structure strings of Zen-NAS: `SuperConvK3BNRELU(3,64,1,1)SuperResK1K5K1(64,168,1,16,3)...`.

With `:se` at the end the residual units have squeeze-and-excitation, like published ones with `--use_se`.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from modules.search_space.networks.rows import Row, fixed_space, logits
from modules.search_space.superspace import INPUT_CHANNELS, Superspace
from modules.utils.errors import UserError
from modules.utils.text import read_text

ACT = "relu"
MAX_STRUCTURE = 1 << 20  # bytes of a structure file
RESOLUTION = 224  # of a structure without a resolution, in pixels
SE = ":se"
SPLIT = 6  # a residual super-block with this many sub-layers becomes two
_SPLIT_FIRST = 3
_BLOCK = re.compile(r"\s*(\w+)\s*\(\s*(?:[^|()]*\|)?([\d\s,]*)\)\s*")


@dataclass(frozen=True)
class Family:
    """The meaning of a super-block's name: its unit, kernel size, and the expansion of inverted units."""

    unit: str
    kernel: int
    expand: int = 0


_NAMES = {
    re.compile(r"SuperConvK(?P<k>[0-9]{1,2})BNRELU"): "Conv",
    re.compile(r"SuperResK(?P<k>[0-9]{1,2})K(?P=k)"): "ZenKK",
    re.compile(r"SuperResK1K(?P<k>[0-9]{1,2})K1"): "ZenBottleneck",
    re.compile(r"SuperResIDWE(?P<e>[0-9]{1,2})K(?P<k>[0-9]{1,2})"): "ZenInverted",
}
MOST_KERNEL, MOST_EXPAND = 15, 16


@lru_cache(maxsize=1000)
def find_family(name: str) -> Family | None:
    """The meaning of a super-block's name: a published name, or one like them with another odd kernel size up to 15 or
    another expansion up to 16, such as SuperResIDWE3K9. None for any other name."""
    for pattern, unit in _NAMES.items():
        if match := pattern.fullmatch(name):
            kernel, expand = int(match["k"]), int(match["e"]) if unit == "ZenInverted" else 0
            allowed = kernel % 2 == 1 and kernel <= MOST_KERNEL and expand <= MOST_EXPAND
            if allowed and (unit != "ZenInverted" or expand):
                return Family(unit, kernel, expand)
    return None


FAMILIES = {name: find_family(name) for name in (  # the published ones
    *(f"SuperConvK{k}BNRELU" for k in (1, 3, 5, 7)), *(f"SuperResK{k}K{k}" for k in (3, 5, 7)),
    *(f"SuperResK1K{k}K1" for k in (3, 5, 7)), *(f"SuperResIDWE{e}K{k}" for e in (1, 2, 4, 6) for k in (3, 5, 7)))}


def round_to(value: float) -> int:
    """`value` rounded to a multiple of 8, at least 8."""
    return max(8, round(value / 8) * 8)


@dataclass(frozen=True)
class SuperBlock:
    """`sub_layers` repeats of a unit; only the first has the stride and the input width."""

    name: str
    cin: int
    cout: int
    stride: int
    bottleneck: int
    sub_layers: int

    @property
    def family(self) -> Family:
        """The family of the name."""
        return find_family(self.name)

    @property
    def residual(self) -> bool:
        """Whether its units have shortcuts."""
        return self.family.unit != "Conv"

    def __str__(self) -> str:
        middle = (self.bottleneck,) if self.residual else ()
        return f"{self.name}({','.join(map(str, (self.cin, self.cout, self.stride, *middle, self.sub_layers)))})"

    def units(self, shortcuts: bool = True, se: bool = False) -> list[Row]:
        """Its units in order; without `shortcuts` they form a plain chain."""
        units, kind = [], self.family.unit
        if self.residual:
            kind += ("SE" if se else "") + ("" if shortcuts else "Chain")
        for i in range(self.sub_layers):
            for j, (cout, hidden) in enumerate(self._widths()):
                first = i == j == 0
                proj = "Proj" if first and self.residual and shortcuts else ""
                units.append(Row(f"{kind}{proj}", cout, self.family.kernel, hidden / cout if hidden else None,
                                 self.stride if first else 1, ACT))
        return units

    def _widths(self) -> list[tuple[int, int]]:
        """Output and hidden width of each unit of a sub-layer."""
        if not self.residual:
            return [(self.cout, 0)]
        if self.family.expand:
            return [(width, round_to(width * self.family.expand)) for width in (self.bottleneck, self.cout)]
        return [(self.cout, self.bottleneck)] * (1 if self.family.unit == "ZenKK" else 2)

    def split(self) -> list[SuperBlock]:
        """Two blocks if it has many sub-layers, otherwise itself."""
        if not self.residual or self.sub_layers < SPLIT:
            return [self]
        return [replace(self, sub_layers=_SPLIT_FIRST),
                replace(self, cin=self.cout, stride=1, sub_layers=self.sub_layers - _SPLIT_FIRST)]


@dataclass(frozen=True)
class Structure:
    """The body of a network; a global mean and a classifier follow it. `use_se`: with squeeze-and-excitation."""

    blocks: tuple[SuperBlock, ...]
    use_se: bool = False

    @classmethod
    def parse(cls, text: str) -> Structure:
        """From a structure string; UserError that names the block for anything that is not one."""
        whole = text.strip()
        text = whole.removesuffix(SE)
        blocks, position = [], 0
        while position < len(text):
            match = _BLOCK.match(text, position)
            if not match:
                raise UserError(f"structure {text[position:position + 40]!r}; expected NAME(numbers)")
            blocks.append(_block(match[1], match[2]))
            if len(blocks) > 1 and blocks[-1].cin != blocks[-2].cout:
                raise UserError(f"{blocks[-1]} takes {blocks[-1].cin} channels, but {blocks[-2]} before it gives "
                                f"{blocks[-2].cout}")
            position = match.end()
        if not blocks:
            raise UserError("the structure is empty; expected NAME(numbers)NAME(numbers)...")
        return cls(tuple(blocks), whole != text)

    def __str__(self) -> str:
        return "".join(map(str, self.blocks)) + (SE if self.use_se else "")

    @property
    def num_layers(self) -> int:
        """Sum of the blocks' sub-layers."""
        return sum(block.sub_layers for block in self.blocks)

    def chained(self) -> Structure:
        """The structure with input widths set to the output widths before them, and with long blocks split."""
        blocks, cin = [], self.blocks[0].cin
        for block in self.blocks:
            blocks += replace(block, cin=cin).split()
            cin = block.cout
        return replace(self, blocks=tuple(blocks))

    def scaled(self, width: float) -> Structure:
        """The structure with output and hidden widths of all blocks times `width`, rounded to multiples of 8."""
        if width == 1:
            return self
        blocks, cin = [], self.blocks[0].cin
        for block in self.blocks:
            hidden = round_to(block.bottleneck * width) if block.residual else 0
            blocks.append(replace(block, cin=cin, cout=round_to(block.cout * width), bottleneck=hidden))
            cin = blocks[-1].cout
        return replace(self, blocks=tuple(blocks))

    def rows(self, shortcuts: bool = True) -> list[Row]:
        """The units of all blocks, in order."""
        return [row for block in self.blocks for row in block.units(shortcuts, self.use_se)]

    def head(self) -> dict[str, Row]:
        """The head: a global mean and the classifier."""
        return {"feature_mix": Row("Pool", self.blocks[-1].cout, 1, act=None), "logits": logits()}


def structure_space(text: str) -> Superspace | None:
    """The superspace of the structure string `text`, with its network as only subnet; None if `text` is a name."""
    if "(" not in text:
        return None
    structure = Structure.parse(text)
    if structure.blocks[0].cin != INPUT_CHANNELS:
        raise UserError(f"{structure.blocks[0]} takes {structure.blocks[0].cin} channels; an image has "
                        f"{INPUT_CHANNELS}")
    return fixed_space(str(structure), structure.rows(), structure.head(), RESOLUTION)


def _block(name: str, numbers: str) -> SuperBlock:
    family = find_family(name)
    if family is None:
        raise UserError(f"block {name!r}; allowed: {', '.join(FAMILIES)}, or another odd kernel size up to "
                        f"{MOST_KERNEL} or expansion up to {MOST_EXPAND}")
    values = [_whole_number(n) for n in numbers.split(",") if n.strip()]
    wanted = "in,out,stride,sub_layers" if family.unit == "Conv" else "in,out,stride,bottleneck,sub_layers"
    if len(values) != wanted.count(",") + 1 or min(values) < 1:
        raise UserError(f"{name}({numbers}); expected {wanted}, each at least 1")
    *start, sub_layers = values
    return SuperBlock(name, *start, *(() if len(start) == 4 else (0,)), sub_layers)


def _whole_number(text: str) -> int:
    """Below 10^9; 0, which is refused, for anything else."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else 0


def read_structure(text: str) -> Structure:
    """From a structure string, or from the first line of the file that `text` names."""
    if "(" in text:
        return Structure.parse(text)
    try:
        content = read_text(text, "structure file", MAX_STRUCTURE)
    except UserError as error:
        raise UserError(f"{error}; expected a file, or NAME(numbers)NAME(numbers)...") from None
    return Structure.parse((content.splitlines() or [""])[0])
