"""Platforms: what tells the latency of a block or a subnet. A new one only registers."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from modules.latency.prediction import Prediction
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs
from modules.utils.errors import check_choice


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




def predict_subnets(platform: Platform, specs: Sequence[NetSpec]) -> Prediction:
    """Latencies of `specs` on `platform`, all at once where it can do that (`BlockSums`); (len(specs),) each."""
    if hasattr(platform, "predict_subnets"):
        return platform.predict_subnets(specs)
    ms = np.array([platform.predict_subnet(spec) for spec in specs], dtype=float)
    return Prediction(ms, np.full(len(ms), np.nan), np.zeros(len(ms), bool))




