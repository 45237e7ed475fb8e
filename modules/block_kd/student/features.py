"""The teacher's features of one batch of images, computed once per resolution."""
from __future__ import annotations

import torch

from modules.modeling.network import resize


class TeacherFeatures:
    """Input and output of stage `stage` of `teacher` for `images` (N, 3, H, W), at any resolution in pixels. The output
    is that of stage `last` if it is given.

    The teacher gets images of `teacher.enlarge` times that resolution.
    """

    def __init__(self, teacher, stage: str, images: torch.Tensor, last: str = ""):
        self.teacher, self.stage, self.images, self.last = teacher, stage, images, last or stage
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def at(self, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and output of the stage for the students' images at `resolution` pixels, (N, C, H, W) each, such as
        (64, 24, 56, 56) and (64, 40, 28, 28)."""
        if resolution not in self._known:
            with torch.no_grad():
                images = resize(self.images, resolution * self.teacher.enlarge)
                found = self.teacher.features(images, [self.stage, self.last])
                self._known[resolution] = found[self.stage][0], found[self.last][1]
        return self._known[resolution]
