"""Exact batch-norm calibration: statistics of all given images, merged over batches and processes."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from modules.datasets.build import Data, load_data
from modules.datasets.loading import train_batches
from modules.datasets.transforms import train_transform
from modules.utils import dist
from modules.utils.errors import UserError

if TYPE_CHECKING:
    from modules.modeling.restore import ModelRecord
    from modules.modeling.supernet import Supernet
    from modules.training.config import TrainConfig

START_BATCHES, START_BATCH_SIZE = 32, 64  # of `calibrate_start`, per process; as published


def load_calibration_images(data: Data, transform: Callable, count: int, *, batch_size: int, seed: int,
                            num_workers: int = 0) -> list[torch.Tensor]:
    """This process's first `count` training batches of epoch 0, only images (N, 3, H, W), such as (64, 3, 224, 224).
    Batches of one image are left out."""
    batches = train_batches(data, transform, batch_size=batch_size, seed=seed, epoch=0, rank=dist.rank(),
                            world_size=dist.world_size(), num_workers=num_workers)
    return [images for images, _ in itertools.islice(batches, count) if len(images) > 1]


def calibrate_start(model: Supernet, record: ModelRecord, config: TrainConfig) -> None:
    """Set the batch-norm statistics of supernet `model`, before its training, to those of its active subnet on the
    training images in the folder `config.calibration_path`.

    The classifier and its quantiser stay unchanged: they will learn from other images.

    Args:
        record: the `ModelRecord` of the run, with the size and normalisation of the images.
        config: the `TrainConfig` of the run.
    """
    data = load_data("folder", config.calibration_path).normalised(record.mean, record.std)
    transform = train_transform(config.augment, record.crop_size, data.info)
    images = load_calibration_images(data, transform, START_BATCHES, batch_size=START_BATCH_SIZE, seed=config.seed,
                                     num_workers=config.data_loader_workers_per_gpu)
    head = {key: value.clone() for key, value in model.head.state_dict().items()}
    calibrate_bn(model, images)
    model.head.load_state_dict(head)


def calibrate_bn(model: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Set the running statistics of every batch norm in `model` to those of `batches`, and return the model.

    Each batch is normalised by its own statistics, as in training. Their means and variances are then merged exactly,
    over processes too: every image counts once, whatever the batch sizes. Only the statistics change; mode, momentum
    and number of batches of the norms stay.

    Args:
        batches: image batches (N, 3, H, W), such as (64, 3, 224, 224), of at least two images.

    Raises:
        UserError: no batches.
    """
    statistics, device, steps = NormStatistics(), next(model.parameters()).device, 0
    for steps, images in enumerate(batches, 1):  # noqa: B007 - counted for the check below
        statistics.collect(model, images.to(device))
    if not steps:
        raise UserError("batch-norm calibration got no images; give it at least one batch")
    statistics.merge()
    statistics.store()
    return model


class NormStatistics:
    """Statistics of the norms of one network, or of one configuration of an elastic network, over several batches."""

    def __init__(self):
        self.sums: dict[nn.BatchNorm2d, torch.Tensor] = {}  # n, n mean, n mean of squares per channel, in float64

    def collect(self, model: nn.Module, images: torch.Tensor) -> None:
        """Run `model` on `images`, every batch norm in training mode and the rest in eval mode. Add the statistics of
        its norms. The norms are left with the statistics of this batch."""
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
        was_training = model.training
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # the running statistics become those of this batch
        hooks = [norm.register_forward_hook(self._add) for norm in norms]
        try:
            with torch.no_grad():
                model(images)
        finally:
            for norm, hook, (momentum, count) in zip(norms, hooks, kept, strict=True):
                hook.remove()
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(count)
            model.train(was_training)

    def _add(self, norm: nn.BatchNorm2d, inputs, output) -> None:
        channels = inputs[0].shape[1]  # only the first ones of an elastic norm are active
        n = inputs[0].numel() // channels
        mean = norm.running_mean[:channels].double()
        square = norm.running_var[:channels].double() * ((n - 1) / n) + mean**2
        sums = n * torch.cat((mean.new_ones(1), mean, square))
        self.sums[norm] = self.sums[norm] + sums if norm in self.sums else sums

    def merge(self) -> None:
        """Add up the statistics of all processes."""
        for sums in self.sums.values():
            dist.all_sum(sums)

    def store(self) -> None:
        """Set the norms' running statistics to the collected ones."""
        for norm, sums in self.sums.items():
            count = sums[0]
            mean, square = (sums[1:] / count).chunk(2)
            var = (square - mean**2).clamp(min=0) * count / (count - 1)
            norm.running_mean[: len(mean)].copy_(mean)
            norm.running_var[: len(mean)].copy_(var)
