"""Exact batch-norm calibration: statistics of all given images, merged over batches and processes."""
from __future__ import annotations

import torch
from torch import nn

from modules.datasets.loading import train_batches
from modules.utils import dist
from modules.utils.errors import UserError


def load_calibration_images(data, transform, count: int, *, batch_size: int, seed: int,
                            num_workers: int = 0) -> list[torch.Tensor]:
    """This process's first `count` training batches of epoch 0, images only; a batch of one image is left out."""
    batches = train_batches(data, transform, batch_size=batch_size, seed=seed, epoch=0, rank=dist.rank(),
                            world_size=dist.world_size(), num_workers=num_workers)
    return [images for (images, _), _ in zip(batches, range(count), strict=False) if len(images) > 1]


def calibrate_bn(model: nn.Module, batches) -> nn.Module:
    """Set the running statistics of every batch norm in `model` to those of `batches`, and return the model.

    Each batch is normalised by its own statistics, as in training; their means and variances are then merged exactly
    (every image counts once, whatever the batch sizes), over processes too. Only the statistics change: the norms'
    mode, momentum and number of batches are as before.

    Args:
        batches: image batches (N, 3, H, W), at least two images each.

    Raises:
        UserError: no batches.
    """
    norms = [_Calibration(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    device, steps = next(model.parameters()).device, 0
    was_training = model.training
    model.eval()
    try:
        for norm in norms:
            norm.begin()
        with torch.no_grad():
            for steps, images in enumerate(batches, 1):  # noqa: B007 - counted for the check below
                model(images.to(device))
    finally:
        for norm in norms:
            norm.end()
        model.train(was_training)
    if not steps:
        raise UserError("batch-norm calibration got no images; give it at least one batch")
    for norm in norms:
        norm.store()
    return model


class _Calibration:
    """One norm in calibration: momentum 1 makes its running statistics those of the last batch, which are summed."""

    def __init__(self, norm: nn.BatchNorm2d):
        self.norm, self.kept = norm, (norm.momentum, norm.num_batches_tracked.clone())
        self.sums = torch.zeros(2 * norm.num_features + 1, dtype=torch.float64, device=norm.running_mean.device)

    def begin(self) -> None:
        self.norm.train()
        self.norm.momentum = 1.0
        self.hook = self.norm.register_forward_hook(self._add)

    def _add(self, norm, inputs, output) -> None:
        n = inputs[0].numel() // inputs[0].shape[1]
        mean, var = norm.running_mean.double(), norm.running_var.double() * ((n - 1) / n)
        self.sums += n * torch.cat((mean, var + mean**2, mean.new_ones(1)))

    def end(self) -> None:
        self.hook.remove()
        self.norm.momentum = self.kept[0]
        self.norm.num_batches_tracked.copy_(self.kept[1])

    def store(self) -> None:
        dist.all_sum(self.sums)
        count = self.sums[-1]
        mean, square = (self.sums[:-1] / count).chunk(2)
        var = (square - mean**2).clamp(min=0) * count / (count - 1)
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(var)
