"""Where a teacher registers."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.block_kd.teacher.backbone import Teacher


@dataclass(frozen=True)
class _Entry:
    build: Callable[[int, str], Teacher]
    torchvision: str
    forms: tuple[str, ...]


_registry: dict[str, _Entry] = {}


def register_teacher(name: str, *, torchvision: str = "", forms: Sequence[str] = ("torchvision",)):
    """Decorator that makes a builder `(num_classes, form) -> Teacher` known as `name`.

    Args:
        torchvision: torchvision's name of the same network, if its weights fit.
        forms: the forms (see `Teacher`) that the builder knows, the one for fresh networks first.
    """
    def add(build: Callable[[int, str], Teacher]) -> Callable[[int, str], Teacher]:
        _registry[name] = _Entry(build, torchvision, tuple(forms))
        return build
    return add
