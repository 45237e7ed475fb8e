"""The answers of an fp32 teacher, which its INT8 form keeps. They need images, but no labels."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from modules.block_kd.teacher.backbone import Teacher


class Answers:
    """What the fp32 teacher `teacher`, in eval mode, says about images."""

    def __init__(self, teacher: Teacher):
        self.teacher = teacher

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, classes) for images (N, 3, H, W), such as (12, 1000) for (12, 3, 224, 224)."""
        return self.teacher(images).softmax(1)

    def labelled(self, batches: Iterable) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of (images, labels) with the teacher's first answers, (N,), as labels: accuracy is agreement."""
        device = next(self.teacher.parameters()).device
        for images, _ in batches:
            yield images, self.probabilities(images.to(device)).argmax(1)


def keep_statistics(model: nn.Module) -> None:
    """Put batch norm into eval mode: the answers to keep are those with its statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
