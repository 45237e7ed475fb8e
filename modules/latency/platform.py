"""Platforms: each predicts the latency of a block or a subnet on a device. A new one only registers."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from modules.latency.prediction import Prediction
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs
from modules.runtime.runner import products_saturate
from modules.utils.registry import Registry


class Platform(Protocol):
    """Latency in milliseconds at batch 1 on one thread."""

    def predict_block(self, block: BlockArgs, hw: tuple[int, int]) -> float:
        """Latency of one block on an input of `hw` pixels."""

    def predict_subnet(self, spec: NetSpec) -> float:
        """Latency of a whole network."""


_platforms: Registry[Callable[[], Platform]] = Registry("platform")
register_platform = _platforms.register  # decorator of a class or function without arguments that makes a platform
register_platform_source = _platforms.add_source  # of functions that make a platform
check_platform = _platforms.check


def register_platform_family(prefix: str):
    """Decorator of a function of NAME that makes the platform `<prefix>:NAME`."""
    def decorator(make: Callable[[str], Platform]):
        def find(name: str) -> Callable[[], Platform] | None:
            family, _, rest = name.partition(":")
            return partial(make, rest) if family == prefix and rest else None

        _platforms.add_source(find, form=f"{prefix}:NAME")
        return make
    return decorator


def is_built_in(name: str) -> bool:
    """Whether the program itself has a platform called `name`; a profile of that name would never be found."""
    return name in set(_platforms)


def get_available_platforms(pattern: str = "*") -> list[str]:
    """Names of the platforms that match `pattern`, such as "*_int8", without those of families."""
    return _platforms.names(pattern)


def make_platform(name: str) -> Platform:
    """The platform called `name`; UserError with the known names otherwise."""
    return _platforms[name]()


def this_machine() -> str:
    """The platform of this machine whose INT8 networks are the quickest: weights of 7 bits on x86 without VNNI, where
    onnxruntime's exact kernels for 8 bits take a third longer."""
    return "onnxruntime_w7a8" if products_saturate() else "onnxruntime_int8"


def weight_bits(name: str) -> int:
    """Bits of the weights of the networks whose latency the platform called `name` gives; 8 for one that is unknown
    here, such as the device of tables from another machine."""
    return getattr(_platforms.find(name), "weight_bits", 8)


def predict_blocks(platform: Platform, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
    """Latencies of `blocks` on inputs of `hws` pixels, all at once if `platform` can (`BlockSums`); arrays of shape
    (len(blocks),), such as (17,)."""
    if hasattr(platform, "predict_blocks"):
        return platform.predict_blocks(blocks, hws)
    return _without_spread(platform.predict_block(block, hw) for block, hw in zip(blocks, hws, strict=True))


def predict_subnets(platform: Platform, specs: Sequence[NetSpec]) -> Prediction:
    """Latencies of `specs` on `platform`, all at once if it can (`BlockSums`); arrays of shape (len(specs),), such as
    (1000,)."""
    if hasattr(platform, "predict_subnets"):
        return platform.predict_subnets(specs)
    return _without_spread(platform.predict_subnet(spec) for spec in specs)


def _without_spread(latencies: Iterable[float]) -> Prediction:
    ms = np.array(list(latencies), dtype=float)
    return Prediction(ms, np.full(len(ms), np.nan), np.zeros(len(ms), bool))
