"""One training step: of a supernet by the sandwich rule with in-place distillation (Yu et al., 2019; AlphaNet, 2021),
or of one subnet alone."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from modules.training.config import TrainConfig
from modules.training.losses import adaptive_divergence, smoothed_cross_entropy
from modules.training.precision import autocast
from modules.training.recipe.mixup import mix
from modules.utils import dist

if TYPE_CHECKING:
    from modules.modeling.supernet import Supernet
    from modules.training.recipe.distillation import Distiller


def step_generator(seed: int, epoch: int, step: int) -> np.random.Generator:
    """The generator for the draws of one step: the same on every process, and after a resume."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, step)))


def sandwich_step(supernet: Supernet, images: torch.Tensor, labels: torch.Tensor, config: TrainConfig,
                  rng: np.random.Generator, distiller: Distiller | None = None,
                  answers: torch.Tensor | None = None) -> torch.Tensor:
    """Add the gradients of one step's subnets to `supernet` and average them over processes. `images` is (N, 3, H, W),
    such as (64, 3, 224, 224), `labels` (N,).

    The largest subnet learns from the labels, and from the teacher of `distiller`, or from its `answers` (N, K) of
    before. Random ones and the smallest then learn from its logits.

    Returns:
        Vector (3,) on the device: largest net's loss, smallest net's loss, share of images that the smallest net gets
        right.
    """
    images, target_labels = _mixed(supernet, images, labels, config, rng)
    forward = _forward(supernet, images, config, rng)
    supernet.set_max_subnet()
    logits, largest_loss = _learn(supernet, images, forward, target_labels, config, distiller, answers)
    target = logits.detach()
    if config.inplace_distill and config.dropout and not config.soft_target_dropout:
        with torch.no_grad():
            target = forward()
    for i in range(1, config.num_arch_training):
        if i == config.num_arch_training - 1:
            supernet.set_min_subnet()
        else:
            supernet.sample_active_subnet(rng, config.align_sample)
        logits = forward()
        if config.inplace_distill:
            loss = adaptive_divergence(logits, target, config.alpha_min, config.alpha_max, config.iw_clip)
        else:
            loss = smoothed_cross_entropy(logits, target_labels, config.label_smoothing)
        loss.backward()
    dist.average_gradients(trained_parameters(supernet, distiller))
    return torch.stack((largest_loss, loss.detach(), _share_right(logits, labels)))


def subnet_step(supernet: Supernet, images: torch.Tensor, labels: torch.Tensor, config: TrainConfig,
                rng: np.random.Generator, distiller: Distiller | None = None,
                answers: torch.Tensor | None = None) -> torch.Tensor:
    """Add the gradients of the active subnet and average them over processes. It learns from the labels, and from the
    teacher of `distiller`, or from its `answers` (N, K) of before. `images` is (N, 3, H, W), `labels` (N,).

    Returns:
        As `sandwich_step`, with the one subnet for all three.
    """
    images, target_labels = _mixed(supernet, images, labels, config, rng)
    forward = _forward(supernet, images, config, rng)
    logits, loss = _learn(supernet, images, forward, target_labels, config, distiller, answers)
    dist.average_gradients(trained_parameters(supernet, distiller))
    return torch.stack((loss, loss, _share_right(logits, labels)))


def trained_parameters(supernet: Supernet, distiller: Distiller | None) -> list[torch.nn.Parameter]:
    """All parameters that a step trains."""
    return [*supernet.parameters(), *(distiller.projections.parameters() if distiller else ())]


def _mixed(supernet, images, labels, config: TrainConfig, rng) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels to learn from."""
    if not config.mixup:
        return images, labels
    return mix(images, labels, supernet.num_classes, config.mixup, rng)


def _forward(supernet, images: torch.Tensor, config: TrainConfig, rng) -> Callable[[], torch.Tensor]:
    """A function that computes the active subnet's logits."""
    # Dropout draws from torch's global generator. A seed for each step makes a resumed run draw the same.
    torch.manual_seed(int(rng.integers(2**31)) + dist.rank())
    most = max(supernet.subnets.resolutions)
    if images.shape[-1] > most:  # as large as a teacher wants them; evaluation reduces them so, too
        images = interpolate(images, (most, most), mode="bicubic", antialias=True)

    def forward():
        with autocast(config.amp, images.device.type):
            return supernet(images).float()

    return forward


def _learn(supernet, images, forward, labels, config: TrainConfig,
           distiller: Distiller | None, answers: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradients of the active subnet; returns its detached logits (N, K) and the loss from the labels."""
    supernet.set_dropout_rate(config.dropout)
    with distiller.watch(supernet) if distiller else nullcontext() as features:
        logits = forward()
    loss = smoothed_cross_entropy(logits, labels, config.label_smoothing)
    (loss + distiller.loss(images, features, logits, config.amp, answers) if distiller else loss).backward()
    supernet.set_dropout_rate(0.0)
    return logits, loss.detach()


def _share_right(logits, labels) -> torch.Tensor:
    return (logits.detach().argmax(1) == labels).float().mean()
