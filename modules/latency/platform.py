"""Platforms: what tells the latency of a block or a subnet. A new one only registers."""
from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from modules.modeling.complexity import count_block
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, build_block
from modules.utils.errors import check_choice


class Platform(Protocol):
    """Latency in milliseconds at batch 1 on one thread."""

    def predict_block(self, block: BlockArgs, hw: tuple[int, int]) -> float:
        """Latency of one block on an input of `hw` pixels."""

    def predict_subnet(self, spec: NetSpec) -> float:
        """Latency of a whole network."""


_platforms: dict[str, Callable[[], Platform]] = {}


def register_platform(name: str):
    """Register a class or function without arguments that makes a platform."""
    def decorator(make):
        _platforms[name] = make
        return make
    return decorator


def get_available_platforms() -> list[str]:
    """Names of all platforms."""
    return list(_platforms)


def get_platform(name: str) -> Platform:
    """The platform called `name`; UserError with the known names otherwise."""
    return _platforms[check_choice(name, _platforms, "platform")]()


def sum_of_blocks(platform: Platform, spec: NetSpec) -> float:
    """The sum of `platform`'s block latencies, each block at the size its input has in the network."""
    hw, total = (spec.resolution, spec.resolution), 0.0
    for _, block in spec.blocks:
        total += platform.predict_block(block.args, hw)
        hw = count_block(block, hw)[1]
    return total


class LatencyPredictor:
    """The published interface to a platform."""

    def __init__(self, platform: str):
        self.platform = get_platform(platform)

    def predict_block(self, kind: str, hw: int, cin: int, cout: int, kernel: int, expand: float | None, stride: int,
                      act: str | None) -> float:
        """Latency in milliseconds of one block on a square input of `hw` pixels."""
        args = BlockArgs(kind, cin, cout, kernel, expand, stride, act)
        build_block(args)
        return self.platform.predict_block(args, (hw, hw))

    def predict_subnet(self, spec: NetSpec) -> float:
        """Latency in milliseconds of a network."""
        return self.platform.predict_subnet(spec)
