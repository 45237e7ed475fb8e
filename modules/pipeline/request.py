"""What the user of the pipeline asks for, and the files that its steps write."""
from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Request:
    """The options of `python -m modules.pipeline`; names and meaning as there.

    `limit` is in ms (0: one that half of the subnets of the superspace keep), `budget` in seconds.
    """

    dataset: str
    dataset_path: str
    limit: float
    platform: str
    teacher: str
    teacher_weights: str
    superspace: str
    resolutions: tuple[int, ...]
    budget: float
    output: Path
    tables: str = "own"
    baselines: bool = True
    seed: int = 0

    @property
    def identity(self) -> dict:
        """What a continued run has to keep."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "output"}

    def images(self) -> list:
        """The options that name the images, of every script that reads them."""
        path = ["--dataset_path", self.dataset_path] if self.dataset_path else []
        return ["--dataset", self.dataset, *path] if self.dataset else path


def default_resolutions(superspace: str) -> tuple[int, ...]:
    """The superspace's resolutions in pixels, up to the smallest one that its blocks are distilled at."""
    space = get_superspace(superspace)
    return tuple(r for r in space.resolutions if r <= min(space.block_kd_resolutions))


def parse_duration(text: str) -> float:
    """Seconds of "90s", "30m", "2h" or "1d"; a number alone is minutes. UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2] or "m"] if match and len(match[1]) < 10 else 0
    if not seconds:
        raise UserError(f"--budget {text!r}; expected a positive number and a unit, such as 90s, 30m or 2h")
    return seconds
