"""Platforms: what tells the latency of a block or a subnet. A new one only registers."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, build_block
from modules.utils.errors import UserError, check_choice

NORMAL_90 = 1.6448536269514722  # half width, in standard deviations, of the interval that holds 90% of a normal law


@dataclass(frozen=True)
class Prediction:
    """Latencies in ms, the standard deviations of their errors in ms (nan: not known), and whether they extrapolate.

    Of several blocks or subnets: arrays of equal length.
    """

    ms: np.ndarray
    std: np.ndarray
    extrapolated: np.ndarray

    def upper(self, confidence: float) -> np.ndarray:
        """The latencies (ms) that are not exceeded with probability `confidence` if errors are normal."""
        from statistics import NormalDist

        return self.ms + NormalDist().inv_cdf(confidence) * self.std

    def text(self, index: int) -> str:
        """Latency number `index` with two decimals, `~` before one that extrapolates."""
        return f"{'~' if self.extrapolated[index] else ''}{self.ms[index]:.2f}"


def join_predictions(parts: Sequence[Prediction]) -> Prediction:
    """Several predictions one after the other."""
    return Prediction(*(np.concatenate([getattr(part, name) for part in parts]) for name in
                        ("ms", "std", "extrapolated")))


class Platform(Protocol):
    """Latency in milliseconds at batch 1 on one thread."""

    def predict_block(self, block: BlockArgs, hw: tuple[int, int]) -> float:
        """Latency of one block on an input of `hw` pixels."""

    def predict_subnet(self, spec: NetSpec) -> float:
        """Latency of a whole network."""


_platforms: dict[str, Callable[[], Platform]] = {}
_families: dict[str, Callable[[str], Platform]] = {}
_finders: list[tuple[Callable[[str], Callable[[], Platform] | None], Callable[[], list[str]]]] = []


def register_platform(name: str):
    """Register a class or function without arguments that makes a platform."""
    def decorator(make):
        _platforms[name] = make
        return make
    return decorator


def register_platform_family(prefix: str):
    """Register a function of NAME that makes the platform `<prefix>:NAME`."""
    def decorator(make):
        _families[prefix] = make
        return make
    return decorator


def register_platform_finder(find: Callable[[str], Callable[[], Platform] | None], names: Callable[[], list[str]]):
    """Register where further platforms are looked up: `find(name)` gives what makes one, or None; `names()` lists
    those that have a name."""
    _finders.append((find, names))


def get_available_platforms() -> list[str]:
    """Names of all platforms; those of families are left out."""
    return list(dict.fromkeys([*_platforms, *(name for _, names in _finders for name in names())]))


def _find(name: str) -> Callable[[], Platform] | None:
    if name in _platforms:
        return _platforms[name]
    return next((make for find, _ in _finders if (make := find(name))), None)


def check_platform(name: str) -> str:
    """Return `name` if there is such a platform, or such a family; UserError with the known names otherwise."""
    if (name.partition(":")[0] in _families and ":" in name) or _find(name):
        return name
    allowed = [*get_available_platforms(), *(f"{prefix}:NAME" for prefix in _families)]
    return check_choice(name, allowed, "platform")


def get_platform(name: str, table: str = "") -> Platform:
    """The platform called `name`; UserError with the known names otherwise.

    Args:
        name: as registered, or `<family>:NAME`.
        table: a file of block latencies in nn-Meter's form, which win over the platform's own.
    """
    prefix, _, rest = check_platform(name).partition(":")
    platform = _families[prefix](rest) if rest and prefix in _families else _find(name)()
    if not table:
        return platform
    from modules.latency.table import TablePlatform, read_table

    return TablePlatform(platform, read_table(table))


def predict_subnets(platform: Platform, specs: Sequence[NetSpec]) -> Prediction:
    """Latencies of `specs` on `platform`, all at once where it can do that (`BlockSums`); (len(specs),) each."""
    if hasattr(platform, "predict_subnets"):
        return platform.predict_subnets(specs)
    ms = np.array([platform.predict_subnet(spec) for spec in specs], dtype=float)
    return Prediction(ms, np.full(len(ms), np.nan), np.zeros(len(ms), bool))


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


def check_known_spread(prediction: Prediction, name: str, option: str) -> None:
    """UserError if `option` asks for an uncertainty that platform `name` does not tell."""
    if np.isnan(prediction.std).any():
        raise UserError(f"{option}: platform {name} does not tell how sure it is; expected a fitted platform")
