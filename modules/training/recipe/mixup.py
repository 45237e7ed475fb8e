"""Mixup: images and labels of a batch, mixed in pairs (Zhang et al., 2018)."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def mix(images: torch.Tensor, labels: torch.Tensor, classes: int, alpha: float,
        rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix every image of a batch with another of its images: lam x + (1 - lam) x', and one-hot labels in the same way.

    Args:
        images, labels: (N, 3, H, W), such as (64, 3, 224, 224), and int64 (N,).
        classes: K.
        alpha: the share lam, one for the batch, is drawn from Beta(alpha, alpha).
        rng: of the share, then of the order that gives each image its partner.

    Returns:
        The mixed images, and the labels as probabilities (N, K). Label smoothing is linear: smoothed mixed labels are
        mixed smoothed labels.
    """
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(images)))
    if images.is_cuda:  # pageable memory would wait for the step before
        order = order.pin_memory().to(images.device, non_blocking=True)
    target = F.one_hot(labels, classes).to(images.dtype)
    return images.lerp(images[order], 1 - share), target.lerp(target[order], 1 - share)
