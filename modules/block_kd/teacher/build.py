"""Teachers by name, and the check that one fits a superspace."""
from __future__ import annotations

import torch

from modules.block_kd.teacher import efficientnet, regnet  # noqa: F401 - they register theirs
from modules.block_kd.teacher.backbone import Teacher
from modules.block_kd.teacher.registry import teachers
from modules.modeling.spec import output_size
from modules.search_space.superspace import Superspace
from modules.utils.errors import UserError, check_choice

_PROBE_SIZE = 64  # pixels; every stage halves it without remainder


def get_available_teachers(pattern: str = "*") -> list[str]:
    """Names of the teachers that match `pattern`, such as "efficientnet-*", in the order of registration."""
    return teachers.names(pattern)


def torchvision_name(arch: str) -> str:
    """torchvision's name of teacher `arch`; UserError if it has none."""
    name = teachers[arch].torchvision
    if not name:
        known = [a for a in teachers if teachers[a].torchvision]
        raise UserError(f"torchvision has no weights of teacher {arch!r}; allowed: {', '.join(known)}")
    return name


def build_teacher(arch: str, num_classes: int = 1000, form: str | None = None) -> Teacher:
    """Teacher `arch` with random weights; `form` None: the first form that it is registered with.

    Raises:
        UserError: an unknown teacher, or a form that it does not have.
    """
    entry = teachers[arch]
    form = check_choice(form or entry.forms[0], entry.forms, f"form of teacher {arch}")
    teacher = entry.build(num_classes, form)
    teacher.arch, teacher.form, teacher.num_classes = arch, form, num_classes
    teacher.shapes = _probe(teacher)
    return teacher


def _probe(teacher: Teacher):
    weight = next(teacher.parameters())
    images = torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE, device=weight.device, dtype=weight.dtype)
    teacher.eval()
    with torch.no_grad():
        found = teacher.features(images, teacher.segments)
    teacher.train()
    return {name: (tuple(x.shape[1:]), tuple(y.shape[1:])) for name, (x, y) in found.items()}


def check_fits(teacher: Teacher, superspace: Superspace) -> None:
    """UserError unless the teacher has every searched stage, with tensors as large as the superspace's."""
    size, searched = _PROBE_SIZE, {s.name for s in superspace.searched}
    for table in superspace.elastic:
        before, size = size, output_size(size, table.stride)
        if table.name not in searched:
            continue
        if table.name not in teacher.stages:
            raise UserError(f"teacher {teacher.arch!r} has no {table.name}, which {superspace.name} searches; it has: "
                            f"{', '.join(teacher.stages)}")
        sizes = tuple(shape[-1] for shape in teacher.shapes[table.name])
        if sizes != (before, size):
            raise UserError(f"{table.name} of teacher {teacher.arch!r} goes from {sizes[0]} to {sizes[1]} pixels for "
                            f"an image of {_PROBE_SIZE}, that of {superspace.name} from {before} to {size}; register "
                            "the teacher with other cut points")
