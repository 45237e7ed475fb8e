"""Limits of a search beside latency: the largest allowed costs of a network. Every search takes them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modules.search.footprint import Footprint
from modules.utils.errors import UserError
from modules.utils.settings import check_settings, setting, settings_of


def _limit(name: str, meaning: str, unit: str) -> Any:
    return setting(None, meaning, above=0, unit=unit, name=name, shown="any", group="limits beside latency")


@dataclass(frozen=True)
class SizeLimits:
    """The most of each measure of `Footprint`; None: any."""

    mflops: float | None = _limit("max_mflops", "most multiply-accumulates", "million")
    params: float | None = _limit("max_params", "most parameters", "million")
    file_mb: float | None = _limit("max_file_mb", "largest int8 ONNX file, as predicted", "MB")
    memory_mb: float | None = _limit("max_memory_mb", "peak memory of int8 inference: the weights, and the activations "
                                     "of the largest step", "MB")

    def __post_init__(self):
        check_settings(self)

    @property
    def given(self) -> dict[str, float]:
        """The given limits, by the name of their measure."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __bool__(self) -> bool:
        return bool(self.given)

    def __str__(self) -> str:
        """The options of a command line, such as `--max_params 1 --max_file_mb 1.2`."""
        return " ".join(f"--{settings_of(type(self))[name].name} {value:g}" for name, value in self.given.items())

    @property
    def label(self) -> str:
        """A part of a folder's name, such as `params1_file_mb1.2`; empty without limits."""
        return "_".join(f"{name}{value:g}" for name, value in self.given.items())

    def keep(self, footprint: Footprint) -> Any:
        """Whether `footprint` is within all limits; an array of booleans if it has arrays."""
        within: Any = True
        for name, value in self.given.items():
            within = within & (getattr(footprint, name) <= value)
        return within

    def describe(self, footprint: Footprint) -> str:
        """The limited measures of `footprint`, such as `params 1.2, file_mb 1.4`."""
        return ", ".join(f"{name} {getattr(footprint, name):.4g}" for name in self.given)


def check_limited(latencies: Sequence[float], sizes: SizeLimits) -> None:
    """UserError if a search has neither limits of latency nor of `sizes`."""
    if not latencies and not sizes:
        others = ", ".join(f"--{one.name}" for one in settings_of(SizeLimits).values())
        raise UserError(f"no limit; give --latency_constraint in ms, as in --latency_constraint 10, or one of {others}")
