"""One training step of a supernet: the sandwich rule with in-place distillation (Yu et al., 2019; AlphaNet, 2021)."""
from __future__ import annotations

import contextlib

import numpy as np
import torch

from modules.training.config import TrainConfig
from modules.training.losses import adaptive_divergence, smoothed_cross_entropy
from modules.utils import dist


def step_generator(seed: int, epoch: int, step: int) -> np.random.Generator:
    """The generator of one step's draws: the same on every process, and after a resume."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, step)))


def sandwich_step(supernet, images: torch.Tensor, labels: torch.Tensor, config: TrainConfig,
                  rng: np.random.Generator) -> torch.Tensor:
    """Add the gradients of one step's subnets to `supernet` and average them over processes.

    The largest subnet learns from the labels; then random ones and the smallest learn from its logits.

    Returns:
        (largest net's loss, smallest net's loss, share of images that the smallest net gets right), on the device.
    """
    # Dropout draws from torch's global generator; seeding it per step makes a resumed run draw alike.
    torch.manual_seed(int(rng.integers(2**31)) + dist.rank())
    device = images.device.type
    autocast = (torch.autocast(device, torch.bfloat16) if config.amp == "bf16" else contextlib.nullcontext())

    def forward():
        with autocast:
            return supernet(images).float()

    supernet.set_max_subnet()
    supernet.set_dropout_rate(config.dropout)
    logits = forward()
    largest_loss = smoothed_cross_entropy(logits, labels, config.label_smoothing)
    largest_loss.backward()
    supernet.set_dropout_rate(0.0)
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
    right = (logits.detach().argmax(1) == labels).float().mean()
    return torch.stack((largest_loss.detach(), loss.detach(), right))
