"""Losses of many configurations of block students, batch by batch: the teacher sees each batch once."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from modules.block_kd.student.config import LOSS_FUNCTIONS
from modules.block_kd.student.features import TeacherFeatures
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.student.space import StageChoice
from modules.training.calibration import NormStatistics
from modules.training.losses import noise_to_signal
from modules.utils import dist
from modules.utils.errors import UserError

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = dict(
    zip(LOSS_FUNCTIONS, (noise_to_signal, F.mse_loss), strict=True))


@dataclass
class Candidate:
    """One configuration of a student at one resolution (pixels), with its own batch-norm statistics.

    All candidates share the student's weights; one candidate costs only its statistics.
    """

    student: StagePlusProj
    choice: StageChoice
    resolution: int
    statistics: NormStatistics = field(default_factory=NormStatistics)
    loss_sum: float = 0.0
    images: int = 0

    def calibrate(self, features: torch.Tensor) -> None:
        """Add one batch of the teacher's features to the statistics."""
        self.student.set_active(self.choice)
        self.statistics.collect(self.student, features)

    def merge(self) -> None:
        """Add up the statistics of all processes; UserError if there are none."""
        if not self.statistics.sums:
            raise UserError("block students need calibration images; allowed: --num_calib_batches of 1 or more, of at "
                            "least two images each")
        self.statistics.merge()

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """The student's output for `x`, with these statistics."""
        self.student.set_active(self.choice)
        self.statistics.store()
        return self.student(x)

    def measure(self, x: torch.Tensor, target: torch.Tensor, loss: Callable) -> None:
        """Add the loss of one batch of inputs `x`."""
        self.loss_sum = self.loss_sum + loss(self.output(x), target) * len(x)
        self.images += len(x)


def evaluate_candidates(candidates: list[Candidate], teacher: nn.Module, stage: str, calibration: Iterable,
                        batches: Iterable, loss_fn: str, device: torch.device) -> list[float]:
    """Loss of every candidate against stage `stage` of `teacher`, with calibrated batch norm. The students' own
    statistics are overwritten.

    Args:
        calibration: batches of training images (N, 3, H, W), at least two images each.
        batches: batches of (images, labels) to measure on; read once.
        loss_fn: one of LOSS_FUNCTIONS.

    Returns:
        Mean losses over all images of all processes, one for each of `candidates`.

    Raises:
        UserError: no images.
    """
    for candidate in candidates:
        candidate.student.eval()
    for images in calibration:
        features = TeacherFeatures(teacher, stage, images.to(device))
        for candidate in candidates:
            candidate.calibrate(features.at(candidate.resolution)[0])
    for candidate in candidates:
        candidate.merge()
    with torch.no_grad():
        for images, _ in batches:
            features = TeacherFeatures(teacher, stage, images.to(device))
            for candidate in candidates:
                candidate.measure(*features.at(candidate.resolution), LOSSES[loss_fn])
    return mean_losses(candidates, device)


def mean_losses(candidates: Sequence[Candidate], device: torch.device) -> list[float]:
    """The mean loss of each of `candidates` over all images that it was measured on, those of all processes; UserError
    if there are none."""
    sums = torch.tensor([[float(c.loss_sum), c.images] for c in candidates], dtype=torch.float64, device=device)
    losses, images = dist.all_sum(sums).T
    if not images.all():
        raise UserError("the validation set of the block students is empty; allowed: --valid_size of 1 or more")
    return (losses / images).tolist()
