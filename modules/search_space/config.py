"""Choices as values: a space (`SupernetConfig`) and a subnet of it (`SubnetChoiceConfig`).

Both are frozen and hashable. Both have the published string form, which round-trips.
"""
from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from modules.search_space.superspace import Superspace, get_superspace
from modules.utils.errors import UserError
from modules.utils.settings import PIXELS


@dataclass(frozen=True)
class SupernetConfig:
    """A search space: a superspace with one block type and one width window per searched stage.

    `str()` gives `<superspace>-<block digits>-<window digits>`, or the name alone for a fixed network. Window -1 is the
    full width list; it has no string form and only block distillation uses it.
    """

    superspace: str
    blocks: tuple[int, ...]
    windows: tuple[int, ...]

    def __post_init__(self):
        space, where = get_superspace(self.superspace), f"of {self.superspace}"
        stages = space.searched
        for what, choices in (("block choices", self.blocks), ("width windows", self.windows)):
            if len(choices) != len(stages):
                raise UserError(f"{len(choices)} {what} in {_digits(choices)!r} {where}; {len(stages)} are needed, "
                                f"one for each of {', '.join(s.name for s in stages)}")
        for stage, block, window in zip(stages, self.blocks, self.windows, strict=True):
            if not 0 <= block < len(space.candidates):
                raise UserError(f"block choice {block} of {stage.name} {where}; allowed: 0 to "
                                f"{len(space.candidates) - 1}")
            if not -1 <= window < stage.num_windows:
                raise UserError(f"width window {window} of {stage.name} {where}; allowed: 0 to "
                                f"{stage.num_windows - 1}")

    @classmethod
    def from_choice(cls, superspace: str, choice: str) -> SupernetConfig:
        """From a superspace name and `bbbbbb[-wwwwww]` (an underscore may replace the minus); empty for a fixed
        network. UserError for an unknown superspace or another form."""
        space = get_superspace(superspace)
        if not choice.strip() and len(space.candidates) <= 1:  # no choice is needed
            return cls(space.name, *[(0,) * len(space.searched)] * 2)
        match = re.fullmatch(r"(\d+)(?:[-_](\d+))?", choice.strip())
        if not match:
            raise UserError(f"supernet choice {choice!r} of {superspace}; expected block digits, then optionally "
                            "'-' and window digits, as in 151122-023231")
        blocks = tuple(map(int, match[1]))
        windows = tuple(map(int, match[2])) if match[2] else (0,) * len(blocks)
        return cls(superspace, blocks, windows)

    @classmethod
    def from_str(cls, encoding: str) -> SupernetConfig:
        """From `<superspace>-<block digits>[-<window digits>]`; missing windows are zeros. UserError for another
        form."""
        superspace, minus, choice = encoding.strip().partition("-")
        if not minus and get_superspace(superspace).searched:
            raise UserError(f"supernet encoding {encoding!r}; expected <superspace>-<blocks>-<windows>, "
                            "as in onnxw-151122-023231")
        return cls.from_choice(superspace, choice)

    @property
    def space(self) -> Superspace:
        """The superspace of this space."""
        return get_superspace(self.superspace)

    @property
    def choice(self) -> str:
        """The string form without the superspace."""
        return f"{_digits(self.blocks)}-{_digits(self.windows)}" if self.blocks else ""

    @property
    def file_name(self) -> str:
        """`str()` for names of files and folders. A Zen structure has brackets and may be long: its name is `zen_` and
        the first 8 hex digits of its sha256."""
        if "(" in self.superspace:
            return f"zen_{hashlib.sha256(self.superspace.encode()).hexdigest()[:8]}"
        return str(self)

    def __str__(self) -> str:
        return f"{self.superspace}-{self.choice}" if self.blocks else self.superspace


def _digits(values: tuple[int, ...]) -> str:
    return "".join(map(str, values))


@dataclass(frozen=True)
class BlockChoice:
    """Kernel size, output width and expand ratio (None: the block has none) of one block."""

    kernel: int
    width: int
    expand: float | None = None


@dataclass(frozen=True)
class SubnetChoiceConfig:
    """A subnet: the blocks of each elastic stage (first_conv, stage0, stage1 ...) and the input resolution in pixels.

    `str()` gives `d#.._k#.._w#.._e#.._r<R>`: the depth of every stage, then kernel size, width and expand ratio (0 for
    none) of every block in order.
    """

    stages: tuple[tuple[BlockChoice, ...], ...]
    resolution: int

    def __post_init__(self):
        if not PIXELS["low"] <= self.resolution <= PIXELS["high"]:
            raise UserError(f"resolution {self.resolution}; allowed: {PIXELS['low']} to {PIXELS['high']} pixels")

    @classmethod
    def from_str(cls, encoding: str) -> SubnetChoiceConfig:
        """Parse the string form; UserError that names the faulty part."""
        parts = encoding.strip().split("_")
        if [p[:1] for p in parts] != list("dkwer"):
            raise UserError(f"subnet encoding {encoding!r}; expected d..._k..._w..._e..._r<resolution>")
        try:
            depths, kernels, widths = ([int(v) for v in p[1:].split("#")] for p in parts[:3])
            expands = [float(v) or None for v in parts[3][1:].split("#")]
            resolution = int(parts[4][1:])
        except ValueError as error:
            raise UserError(f"subnet encoding {encoding!r}: {error}") from None
        count = sum(depths)
        for name, values in (("k", kernels), ("w", widths), ("e", expands)):
            if len(values) != count:
                raise UserError(f"subnet encoding {encoding!r}: {len(values)} values in part {name!r}, but the depths "
                                f"add up to {count} blocks")
        blocks = [BlockChoice(k, w, e) for k, w, e in zip(kernels, widths, expands, strict=True)]
        ends = [sum(depths[: i + 1]) for i in range(len(depths))]
        stages = tuple(tuple(blocks[end - depth : end]) for end, depth in zip(ends, depths, strict=True))
        return cls(stages, resolution)

    build_from_str = from_str  # the published name

    @property
    def blocks(self) -> tuple[BlockChoice, ...]:
        """All blocks in order."""
        return tuple(block for stage in self.stages for block in stage)

    def __str__(self) -> str:
        def part(values):
            return "#".join(map(str, values))

        blocks = self.blocks
        return (f"d{part(len(s) for s in self.stages)}_k{part(b.kernel for b in blocks)}"
                f"_w{part(b.width for b in blocks)}_e{part(float(b.expand) if b.expand else 0 for b in blocks)}"
                f"_r{self.resolution}")
