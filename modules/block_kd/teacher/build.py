"""Teachers by name, and the check that one fits a superspace."""
from __future__ import annotations

import torch

from modules.block_kd.teacher import efficientnet, regnet  # noqa: F401 - they register theirs
from modules.block_kd.teacher.backbone import Teacher
from modules.block_kd.teacher.registry import teachers
from modules.modeling.spec import output_size
from modules.search_space.superspace import Superspace
from modules.utils.errors import UserError, check_choice

OWN_TEACHERS = tuple(f"efficientnet-{scale}" for scale in efficientnet.OWN_SCALES)  # they train in a minute
_PROBE_SIZE = 64  # pixels; every stage halves it without remainder


def get_available_teachers(pattern: str = "*") -> list[str]:
    """Names of the teachers that match `pattern`, such as "efficientnet-*", in the order of registration."""
    return teachers.names(pattern)


def torchvision_name(arch: str) -> str:
    """torchvision's name of teacher `arch`; UserError if it has none."""
    name = teachers[arch].torchvision
    if not name:
        known = [a for a in teachers if teachers[a].torchvision]
        raise UserError(f"torchvision has no weights of teacher {arch!r}; allowed: {', '.join(known)}, "
                        "or a trained teacher's file (--teacher_checkpoint_path)")
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
    images = torch.zeros(1, 3, *[_PROBE_SIZE * teacher.enlarge] * 2, device=weight.device, dtype=weight.dtype)
    teacher.eval()
    with torch.no_grad():
        found = teacher.features(images, teacher.segments)
    teacher.train()
    return {name: (tuple(x.shape[1:]), tuple(y.shape[1:])) for name, (x, y) in found.items()}


def fit_teacher(teacher: Teacher, superspace: Superspace) -> None:
    """Cut `teacher` for `superspace`, if it is one for small images; errors as of `check_fits`.

    Such a superspace reduces an image 8 times instead of 32 times. Then the teacher gets images of 4 times the
    students' size, such as 96 pixels for 24, and its first segment ends where these have become as small.
    """
    _cut(teacher, superspace)
    check_fits(teacher, superspace)


def enlargement(arch: str, superspace: Superspace) -> int:
    """How many times as wide as the students' images those of teacher `arch` are; errors as of `check_fits`."""
    teacher = build_teacher(arch, 2)
    fit_teacher(teacher, superspace)
    return teacher.enlarge


def fitting_teacher(superspace: Superspace) -> str:
    """The smallest teacher that trains in a minute and fits `superspace`; the smallest of all if none fits."""
    for arch in OWN_TEACHERS:
        teacher = build_teacher(arch, 2)
        _cut(teacher, superspace)
        if not _mismatch(teacher, superspace):
            return arch
    return OWN_TEACHERS[0]


def _cut(teacher: Teacher, superspace: Superspace) -> None:
    if _mismatch(teacher, superspace) and teacher.cut_for_small_images():
        teacher.shapes = _probe(teacher)


def check_fits(teacher: Teacher, superspace: Superspace) -> None:
    """UserError unless the teacher has every searched stage, with tensors as large as the superspace's."""
    reason = _mismatch(teacher, superspace)
    if reason:
        raise UserError(f"{reason}; allowed: {fitting_teacher(superspace)}, or a teacher registered with other cut "
                        "points")


def _mismatch(teacher: Teacher, superspace: Superspace) -> str:
    """Why the teacher does not fit; empty if it does."""
    size, searched = _PROBE_SIZE, {s.name for s in superspace.searched}
    for table in superspace.elastic:
        before, size = size, output_size(size, table.stride)
        if table.name not in searched:
            continue
        if table.name not in teacher.stages:
            return (f"teacher {teacher.arch!r} has no {table.name}, which {superspace.name} searches; it has: "
                    f"{', '.join(teacher.stages)}")
        sizes = tuple(shape[-1] for shape in teacher.shapes[table.name])
        if sizes != (before, size):
            return (f"{table.name} of teacher {teacher.arch!r} goes from {sizes[0]} to {sizes[1]} pixels for an image "
                    f"of {_PROBE_SIZE}, that of {superspace.name} from {before} to {size}")
    return ""
