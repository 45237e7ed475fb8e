"""How fast this machine trains: two short measurements from which the budget is divided."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from modules.block_kd.teacher.build import build_teacher
from modules.modeling.supernet import Supernet
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import Superspace
from modules.training.config import TrainConfig
from modules.training.sandwich import sandwich_step
from modules.utils.dist import init_distributed

BATCH = 64  # images of a step


@dataclass(frozen=True)
class Speed:
    """Seconds of one fp32 step of 64 images.

    Args:
        sandwich: the sandwich step of a supernet with a mixture of all block types.
        teacher: a training step of the teacher; 0 where it is not trained.
    """

    sandwich: float
    teacher: float


def measure_speed(superspace: Superspace, resolution: int, classes: int, teacher: str) -> Speed:
    """Speed at `resolution` (pixels) on the device that training takes; `teacher` is an architecture, "" for none."""
    device = init_distributed()
    images = torch.randn(BATCH, 3, resolution, resolution, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    return Speed(_sandwich_seconds(superspace, resolution, classes, images, labels),
                 _teacher_seconds(teacher, classes, images, labels) if teacher else 0.0)


def _sandwich_seconds(superspace: Superspace, resolution: int, classes: int, images: torch.Tensor,
                      labels: torch.Tensor) -> float:
    stages, kinds = superspace.searched, len(superspace.candidates)
    space = SupernetConfig(superspace.name, tuple(i % kinds for i in range(len(stages))),
                           tuple(stage.num_windows // 2 for stage in stages))
    net, rng = Supernet(space, classes, (resolution,)).to(images.device), np.random.default_rng(0)
    return _seconds(lambda: sandwich_step(net, images, labels, TrainConfig(), rng))


def _teacher_seconds(arch: str, classes: int, images: torch.Tensor, labels: torch.Tensor) -> float:
    net = build_teacher(arch, classes).to(images.device)
    return _seconds(lambda: torch.nn.functional.cross_entropy(net(images), labels).backward())


def _seconds(step: Callable[[], object], runs: int = 3) -> float:
    """The median time of `runs` runs after one that is not counted."""
    times = []
    for _ in range(runs + 1):
        start = time.monotonic()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return float(np.median(times[1:]))
