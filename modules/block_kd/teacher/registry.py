"""The registry of teachers."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.block_kd.teacher.backbone import Teacher
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.utils.registry import Registry


@dataclass(frozen=True)
class _Entry:
    build: Callable[[int, str], Teacher]
    torchvision: str
    forms: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


teachers: Registry[_Entry] = Registry("teacher (--teacher_arch)")


def register_teacher(name: str, *, torchvision: str = "", forms: Sequence[str] = ("torchvision",),
                     mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD):
    """Decorator that makes a builder `(num_classes, form) -> Teacher` known as `name`.

    Args:
        torchvision: torchvision's name of the same network, if its weights fit.
        forms: the forms (see `Teacher`) that the builder knows, the one for fresh networks first.
        mean, std: of its images, per channel, of values in 0..1; its checkpoints keep them.
    """
    def add(build: Callable[[int, str], Teacher]) -> Callable[[int, str], Teacher]:
        teachers.add(name, _Entry(build, torchvision, tuple(forms), mean, std))
        return build
    return add
