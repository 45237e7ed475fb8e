"""A fixed network as rows, one for each block, and the superspace that holds only this network."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import Candidate, StageTable, Superspace, get_superspace
from modules.utils.errors import UserError, shorten
from modules.utils.registry import Registry


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
    """The rows for images of 32 pixels, as usual: the first two strides of 2 become 1."""
    changed, result = 0, []
    for row in rows:
        if row.stride > 1 and changed < 2:
            changed, row = changed + 1, replace(row, stride=1)
        result.append(row)
    return result


def fixed_space(name: str, rows: list[Row], head: dict[str, Row], resolution: int) -> Superspace:
    """The superspace called `name` whose only subnet is the network of `rows` and `head`.

    Equal blocks in a row are one stage: first_conv, stage0, stage1 ... `head` has some of final_expand, feature_mix and
    logits. The width of logits is set when a network is built.
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
    """Pairs (number of the stage, row): a block that differs from the one before, or has a stride, begins a new
    stage."""
    stage = 0
    for before, row in zip([None, *rows], rows, strict=False):
        stage += before is not None and row != replace(before, stride=1)
        yield stage, row


def logits() -> Row:
    """The classifier; its width here is a placeholder."""
    return Row("Logits", 1000, 1, act=None)


Builder = Callable[[str, float], Superspace]
_networks: Registry[Builder] = Registry("network")
_WIDTH = re.compile(r"(?P<network>.+?)(?:(?::|_x)(?P<width>\d+(?:\.\d+)?))?")


def register_network(name: str, rows: Callable[[float], list[Row]], head: Callable[[float], dict[str, Row]],
                     resolution: int, listed: bool = True) -> None:
    """Register the network `name`; `rows` and `head` map a width multiplier to the network's blocks."""
    _networks.add(name, lambda full, width: fixed_space(full, rows(width), head(width), resolution), listed)


def register_both(name: str, rows, head, small_head) -> None:
    """Register a network for 224 pixels, and its form for 32 (`<name>_cifar`) with the other head."""
    register_network(name, rows, head, 224)
    register_network(f"{name}_cifar", lambda width: for_small_images(rows(width)), small_head, 32)


def expand_head(expand: Callable[[float], int], mix: Callable[[float], int] | None, act: str):
    """Head with a last convolution of `expand(width)` channels, then a mean, then `mix(width)` channels if there are
    any."""
    def head(width: float) -> dict[str, Row]:
        last = Row("FeatureMix", mix(width), 1, act=act) if mix else Row("Pool", expand(width), 1, act=None)
        return {"final_expand": Row("Conv", expand(width), 1, act=act), "feature_mix": last, "logits": logits()}
    return head


def get_available_networks(pattern: str = "*") -> list[str]:
    """Names of the fixed networks that match `pattern`; each takes a width multiplier after a colon."""
    return _networks.names(pattern)


@lru_cache(maxsize=1000)
def network_space(name: str) -> Superspace | None:
    """The superspace of a fixed network; None for any other name.

    A width multiplier follows the name: `resnet20:0.5`, or `resnet20_x0.5`, the form in files' names.
    """
    match = _WIDTH.fullmatch(name)
    if not match or match["network"] not in _networks:
        network, _, width = name.partition(":")
        if network in _networks and not re.search(r"_r\d+$", width):  # a resolution may follow
            raise UserError(f"width {width!r} of {shorten(name)}; expected a number above 0, at most 8")
        return None
    network, width = match["network"], float(match["width"] or 1)
    if not 0 < width <= 8:
        raise UserError(f"width {width:g} of {name!r}; allowed: above 0, at most 8")
    if width == 1 and name != network:
        return get_superspace(network)  # mobilenet_v2 is registered as a superspace of its own
    return _networks[network](network if width == 1 else f"{network}_x{width:g}", width)


def network_of(superspace: str) -> str:
    """The name of a fixed network without its width: "mobilenet_v2" of "mobilenet_v2_x0.5"."""
    match = _WIDTH.fullmatch(superspace)
    return match["network"] if match else superspace


def find_network(name: str, resolution: int = 0) -> tuple[SupernetConfig, SubnetChoiceConfig]:
    """The fixed network `name`, such as mobilenet_v4_conv_s or resnet20:0.5, and its only subnet.

    Args:
        resolution: of the input, in pixels; 0: the network's own.

    Raises:
        UserError: an unknown name, or a width that is no number above 0 and at most 8.
    """
    config = SupernetConfig.from_choice(name, "")
    return config, SubnetSpace(config, (resolution or max(config.space.resolutions),)).extreme(max)
