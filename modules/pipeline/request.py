"""The user's request to the pipeline."""
from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modules.block_kd.space_search.spaces import Spaces
from modules.latency.platform import this_machine, weight_bits
from modules.latency.profile.profiled import RECORD
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.utils.files import is_file
from modules.utils.settings import PIXELS, SEED, check_settings, setting

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OWN = "own"  # tables
AUTO, NONE, ACCURACY = "auto", "none", "accuracy"  # of the fitness and of the score of the space's search
SCORE = "Zen"  # the training-free score of `auto`


@dataclass(frozen=True)
class Request:
    """The options of `python -m modules.pipeline`."""

    dataset: str = setting("", "data set, such as moved_digits or CIFAR10", shown="folder")
    dataset_path: str = setting("", "folder with train/ and val/")
    latency_constraint: float = setting(0.0, "latency limit; 0: the median of the superspace's networks", low=0,
                                        unit="ms")
    platform: str = setting(this_machine(), "device of the latency, a platform or a profile",
                            shown="this machine: onnxruntime_int8, on x86 without VNNI onnxruntime_w7a8")
    teacher: str = setting("", "architecture of the teacher", shown="efficientnet-tiny, or efficientnet-small for a "
                           "superspace for small images")
    teacher_weights: str = setting("", "weights that the teacher starts from: a file, or package (those "
                                   "of an installed one, kept as they are)", shown="random ones")
    superspace: str = setting("onnxw_tiny", "superspace, such as onnxw_tiny, cifarw_tiny and cifarw_short (for "
                              "pictures of 24 to 32 pixels), cifarw, onnxw, mobilew")
    block_types: tuple[str, ...] = setting((), "block types to choose among, such as ResNetBasic FusedMBConvRes",
                                           many="+", metavar="TYPE", shown="all of the superspace")
    resolutions: tuple[int, ...] = setting((), "input resolutions", many="+",
                                           shown="the superspace's, up to the smallest of its block tables", **PIXELS)
    budget: str = setting("30m", "time for all, such as 90s, 30m or 4h")
    tables: str = setting(OWN, "folder of block tables to search with; own: tables made in this run")
    zero_shot: str = setting(AUTO, "training-free score, such as Zen, that counts beside the losses of the block "
                             "tables in the search of the space; none; auto: Zen, beside given tables where the "
                             "project has the scores of their rows, and alone, without teacher and distillation, "
                             "where the budget is short for them", metavar="auto|none|SCORE")
    fitness: str = setting(AUTO, "subnets are chosen by their accuracy in a trained supernet, or without one by a "
                           "training-free score, such as Zen; auto: accuracy, but Zen where the budget is short for a "
                           "supernet of these images", metavar="auto|accuracy|SCORE")
    no_baselines: bool = setting(False, "neither random search nor MobileNetV2 to compare with")
    output: str = setting("pipeline_output", "folder for all files")
    seed: int = SEED.field()

    def __post_init__(self):
        check_settings(self)
        parse_duration(self.budget)

    @property
    def identity(self) -> dict:
        """Settings that a continued run must keep."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "output"}

    @property
    def folder(self) -> Path:
        """The folder of all files."""
        return Path(self.output).resolve()

    @property
    def pixels(self) -> tuple[int, ...]:
        """Input resolutions."""
        space = get_superspace(self.superspace)
        return self.resolutions or tuple(r for r in space.resolutions if r <= min(space.block_kd_resolutions))

    @cached_property
    def teacher_arch(self) -> str:
        """The teacher asked for, or the small one that fits the superspace."""
        from modules.block_kd.teacher.build import fitting_teacher  # here: --help needs no torch

        return self.teacher or fitting_teacher(get_superspace(self.superspace))

    @property
    def may_lack_students(self) -> bool:
        """Whether a score alone will do for the search of the space: neither a teacher nor other losses are named."""
        return self.zero_shot == AUTO and not (self.teacher or self.teacher_weights)

    @property
    def spaces(self) -> Spaces:
        """The spaces to choose among."""
        return Spaces(self.superspace, self.block_types)

    @property
    def seconds(self) -> float:
        """The budget."""
        return parse_duration(self.budget)

    @property
    def start_weights(self) -> str:
        """`teacher_weights` for the scripts, which run in another folder."""
        return str(Path(self.teacher_weights).resolve()) if is_file(self.teacher_weights) else self.teacher_weights

    @property
    def device(self) -> str:
        """`platform` for the scripts, which run in another folder."""
        path = Path(self.platform)
        return str(path.resolve()) if (path / RECORD).is_file() else self.platform

    @property
    def weight_bits(self) -> int:
        """Bits of the weights of the networks whose latency `platform` gives."""
        return weight_bits(self.platform)

    def images(self) -> list:
        """The options that name the images, of every script that reads them."""
        path = ["--dataset_path", Path(self.dataset_path).resolve()] if self.dataset_path else []
        return ["--dataset", self.dataset, *path] if self.dataset else path


def parse_duration(text: str) -> float:
    """Seconds of "90s", "30m", "2h" or "1d"; a number alone is minutes. UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2] or "m"] if match and len(match[1]) < 10 else 0
    if not seconds:
        raise UserError(f"--budget {text[:40]!r}; expected a positive number and a unit, such as 90s, 30m or 2h")
    return seconds
