"""The teacher's features of one batch of images, computed once per resolution."""
from __future__ import annotations

import torch

from modules.modeling.network import resize


class TeacherFeatures:
    """Input and output of stage `stage` of `teacher` for `images` (N, 3, H, W), at any resolution in pixels.

    The teacher gets images of `teacher.enlarge` times that resolution.
    """

    def __init__(self, teacher, stage: str, images: torch.Tensor):
        self.teacher, self.stage, self.images = teacher, stage, images
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def at(self, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and output of the stage for the students' images at `resolution` pixels, (N, C, H, W) each, such as
        (64, 24, 56, 56) and (64, 40, 28, 28)."""
        if resolution not in self._known:
            with torch.no_grad():
                images = resize(self.images, resolution * self.teacher.enlarge)
                self._known[resolution] = self.teacher.features(images, [self.stage])[self.stage]
        return self._known[resolution]
