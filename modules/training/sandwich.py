"""One training step: of a supernet by the sandwich rule with in-place distillation (Yu et al., 2019; AlphaNet, 2021),
or of one subnet alone."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from modules.training.config import TrainConfig
from modules.training.losses import adaptive_divergence, smoothed_cross_entropy
from modules.training.precision import autocast
from modules.utils import dist


def step_generator(seed: int, epoch: int, step: int) -> np.random.Generator:
    """The generator for the draws of one step: the same on every process, and after a resume."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, step)))


def sandwich_step(supernet, images: torch.Tensor, labels: torch.Tensor, config: TrainConfig,
                  rng: np.random.Generator) -> torch.Tensor:
    """Add the gradients of one step's subnets to `supernet` and average them over processes. `images` is (N, 3, H, W),
    such as (64, 3, 224, 224), `labels` (N,).

    The largest subnet learns from the labels. Random ones and the smallest then learn from its logits.

    Returns:
        Vector (3,) on the device: largest net's loss, smallest net's loss, share of images that the smallest net gets
        right.
    """
    forward = _forward(supernet, images, config, rng)
    supernet.set_max_subnet()
    logits, largest_loss = _learn_from_labels(supernet, forward, labels, config)
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
            loss = smoothed_cross_entropy(logits, labels, config.label_smoothing)
        loss.backward()
    dist.average_gradients(supernet.parameters())
    return torch.stack((largest_loss, loss.detach(), _share_right(logits, labels)))


def subnet_step(supernet, images: torch.Tensor, labels: torch.Tensor, config: TrainConfig,
                rng: np.random.Generator) -> torch.Tensor:
    """Add the gradients of the active subnet, which learns from the labels, and average them over processes. `images`
    is (N, 3, H, W), `labels` (N,).

    Returns:
        As `sandwich_step`, with the one subnet for all three.
    """
    forward = _forward(supernet, images, config, rng)
    logits, loss = _learn_from_labels(supernet, forward, labels, config)
    dist.average_gradients(supernet.parameters())
    return torch.stack((loss, loss, _share_right(logits, labels)))


def _forward(supernet, images: torch.Tensor, config: TrainConfig, rng) -> Callable[[], torch.Tensor]:
    """A function that computes the active subnet's logits."""
    # Dropout draws from torch's global generator. A seed for each step makes a resumed run draw the same.
    torch.manual_seed(int(rng.integers(2**31)) + dist.rank())
    def forward():
        with autocast(config.amp, images.device.type):
            return supernet(images).float()

    return forward


def _learn_from_labels(supernet, forward, labels, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradients of the active subnet; returns its detached logits (N, K) and loss."""
    supernet.set_dropout_rate(config.dropout)
    logits = forward()
    loss = smoothed_cross_entropy(logits, labels, config.label_smoothing)
    loss.backward()
    supernet.set_dropout_rate(0.0)
    return logits, loss.detach()


def _share_right(logits, labels) -> torch.Tensor:
    return (logits.detach().argmax(1) == labels).float().mean()
