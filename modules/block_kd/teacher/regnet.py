"""RegNetY-1.6GF (Radosavovic et al., 2020) as a teacher: torchvision's network and its cut points.

It has four trunk stages, superspaces have six stages. Stages 3 and 4 share the third trunk stage (17 blocks, cut after
the ninth), stages 5 and 6 share the fourth (2 blocks). There is no stage 0.
"""
from __future__ import annotations

from torch import nn

from modules.block_kd.teacher.backbone import CutTeacher
from modules.block_kd.teacher.registry import register_teacher
from modules.utils.torchvision_compat import import_torchvision


def _blocks(trunk_stage: int, indices: range) -> tuple[str, ...]:
    return tuple(f"trunk_output.block{trunk_stage}.block{trunk_stage}-{i}" for i in indices)


@register_teacher("regnet-y-1.6gf", torchvision="regnet_y_1_6gf")
def build_regnet_y_1_6gf(num_classes: int, form: str) -> CutTeacher:
    """The network with random weights."""
    return CutTeacher(import_torchvision().models.regnet_y_1_6gf(num_classes=num_classes), {
        "first_conv": ("stem",),
        "stage1": _blocks(1, range(2)),
        "stage2": _blocks(2, range(6)),
        "stage3": _blocks(3, range(9)),
        "stage4": _blocks(3, range(9, 17)),
        "stage5": _blocks(4, range(1)),
        "stage6": _blocks(4, range(1, 2)),
        "logits": ("avgpool", nn.Flatten(), "fc"),
    })
