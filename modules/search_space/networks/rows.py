"""A fixed network as rows, one a block, and the superspace that holds it alone."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import (
    Candidate,
    StageTable,
    Superspace,
    get_available_families,
    register_family,
)


@dataclass(frozen=True)
class Row:
    """One block: its type, output channels, kernel size, expand ratio, stride and activation."""

    block: str
    cout: int
    kernel: int = 3
    expand: float | None = None
    stride: int = 1
    act: str | None = "relu"


def scaled(value: float, width: float) -> int:
    """`value` channels times `width`, rounded by the MobileNet rule (`make_divisible`)."""
    rounded = max(8, int(value * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * value * width else rounded + 8


def for_small_images(rows: Iterable[Row]) -> list[Row]:
    """The rows as usual for images of 32 pixels: the first two strides of 2 become 1."""
    changed, result = 0, []
    for row in rows:
        if row.stride > 1 and changed < 2:
            changed, row = changed + 1, replace(row, stride=1)
        result.append(row)
    return result


def fixed_space(name: str, rows: list[Row], head: dict[str, Row], resolution: int) -> Superspace:
    """The superspace called `name` whose only subnet is the network of `rows` and `head`.

    Equal blocks in a row are one stage: first_conv, stage0, stage1 ... `head` has some of final_expand, feature_mix and
    logits, whose width is set when a network is built.
    """
    stages, fixed = [], {}
    for _, group in groupby(_starts(rows), key=lambda pair: pair[0]):
        members = [row for _, row in group]
        stage = "first_conv" if not stages else f"stage{len(stages) - 1}"
        stages.append((stage, members[0], len(members)))
    stages += [(stage, row, 1) for stage, row in head.items()]
    for stage, row, _ in stages:
        fixed[stage] = Candidate(row.block, (row.kernel,), (row.expand,), row.act)
    tables = tuple(StageTable(stage, (row.cout,), (depth,), row.stride) for stage, row, depth in stages)
    return Superspace(name, tables, fixed, (), resolutions=(resolution,), block_kd_resolutions=(resolution,))


def _starts(rows: list[Row]):
    """Pairs (number of the stage, row): a stage ends where a block differs from the one before or has a stride."""
    stage = 0
    for before, row in zip([None, *rows], rows, strict=False):
        stage += before is not None and row != replace(before, stride=1)
        yield stage, row


def logits() -> Row:
    """The classifier; its width here is a placeholder."""
    return Row("Logits", 1000, 1, act=None)


def register_network(name: str, rows: Callable[[float], list[Row]], head: Callable[[float], dict[str, Row]],
                     resolution: int) -> None:
    """Register the network `name`; `rows` and `head` map a width multiplier to the network's blocks."""
    register_family(name, lambda full, width: fixed_space(full, rows(width), head(width), resolution))


def get_available_networks() -> list[str]:
    """Names of all fixed networks; each takes a width multiplier after a colon."""
    return get_available_families()


def find_network(name: str, resolution: int = 0) -> tuple[SupernetConfig, SubnetChoiceConfig]:
    """The fixed network `name`, such as mobilenet_v4_conv_s or resnet20:0.5, and its only subnet.

    Args:
        resolution: of the input, in pixels; 0: the network's own.

    Raises:
        UserError: an unknown name, or a width that is not above 0 and at most 8.
    """
    config = SupernetConfig.from_choice(name, "")
    return config, SubnetSpace(config, (resolution or max(config.space.resolutions),)).extreme(max)
