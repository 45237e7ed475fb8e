"""The images of a block distillation: training, calibration and evaluation batches, the same for all stages."""
from __future__ import annotations

import itertools
from functools import cached_property

import torch

from modules.block_kd.shared import DEBUG_BATCHES
from modules.block_kd.student.config import BlockKDConfig
from modules.datasets.build import Data
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.training.calibration import load_calibration_images
from modules.training.loop.trainee import Position
from modules.utils import dist


class StudentImages:
    """Batches of `data` by the settings `config`. `limit`: most batches of an epoch, an evaluation or a calibration.
    `enlarge`: how many times as wide as the students' resolutions its images are."""

    def __init__(self, config: BlockKDConfig, data: Data, enlarge: int = 1):
        self.config, self.data, self.limit = config, data, DEBUG_BATCHES if config.debug else None
        size = max(config.resolutions) * enlarge
        self.train_transform = train_transform(config.augment, size, data.info)
        self.eval_transform = eval_transform(size, data.info)

    def train(self, start: Position):
        """The batches of an epoch from a step on."""
        c = self.config
        return train_batches(self.data, self.train_transform, batch_size=c.train_batch_size, seed=c.manual_seed,
                             epoch=start.epoch, start_step=start.step, rank=dist.rank(),
                             world_size=dist.world_size(), num_workers=c.num_workers)

    def valid(self):
        """The evaluation batches."""
        c = self.config
        batches = eval_batches(self.data.valid, self.data.valid_indices, self.eval_transform,
                               batch_size=c.eval_batch_size, rank=dist.rank(), world_size=dist.world_size(),
                               num_workers=c.num_workers)
        return itertools.islice(batches, self.limit)

    @cached_property
    def calibration(self) -> list[torch.Tensor]:
        """This process's first training batches, loaded once: images (N, 3, H, W), such as (64, 3, 224, 224)."""
        c = self.config
        return load_calibration_images(
            self.data, self.train_transform, min(c.num_calib_batches, self.limit or c.num_calib_batches),
            batch_size=c.train_batch_size, seed=c.manual_seed, num_workers=c.num_workers)
