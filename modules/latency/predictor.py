"""Platforms by name, and a table of exact values that wins over them."""
from __future__ import annotations

from collections.abc import Sequence

from modules.latency.platform import Platform, make_platform, predict_subnets
from modules.latency.prediction import Prediction
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, build_block


def get_platform(name: str, table: str = "") -> Platform:
    """The platform called `name`; UserError with the known names otherwise.

    Args:
        name: as registered, or `<family>:NAME`.
        table: a file of block latencies in nn-Meter's form, which win over the platform's own.
    """
    platform = make_platform(name)
    if not table:
        return platform
    from modules.latency.table import TablePlatform, read_table

    return TablePlatform(platform, read_table(table))


class LatencyPredictor:
    """The published interface to a platform."""

    def __init__(self, platform: str, table: str = ""):
        self.platform = get_platform(platform, table)

    def predict_block(self, kind: str, hw: int, cin: int, cout: int, kernel: int, expand: float | None, stride: int,
                      act: str | None) -> float:
        """Latency in milliseconds of one block on a square input of `hw` pixels."""
        args = BlockArgs(kind, cin, cout, kernel, expand, stride, act)
        build_block(args)
        return self.platform.predict_block(args, (hw, hw))

    def predict_subnet(self, spec: NetSpec) -> float:
        """Latency in milliseconds of a network."""
        return self.platform.predict_subnet(spec)

    def predict_subnets(self, specs: Sequence[NetSpec]) -> Prediction:
        """Latencies of networks, with their uncertainty."""
        return predict_subnets(self.platform, specs)
