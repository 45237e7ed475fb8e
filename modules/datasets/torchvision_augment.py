"""torchvision's random transforms, drawn from the generator of an image."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modules.utils.torchvision_compat import import_torchvision

ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # as published: part of the image, and height to width


class Seeded:
    """`transform` as a function of (image, numpy Generator); by itself it draws from torch's global generator."""

    def __init__(self, transform: Callable):
        self.transform = transform

    def __call__(self, image, rng: np.random.Generator):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            return self.transform(image)


def auto_augment(small: bool) -> Seeded:
    """AutoAugment with the policy learnt on CIFAR-10, for `small` images, or on ImageNet."""
    transforms = import_torchvision().transforms
    policy = transforms.AutoAugmentPolicy.CIFAR10 if small else transforms.AutoAugmentPolicy.IMAGENET
    return Seeded(transforms.AutoAugment(policy))


def random_erasing(probability: float) -> Seeded:
    """Sets a rectangle of a normalised tensor [3, H, W], such as [3, 224, 224], to 0 with this probability (Zhong et
    al., 2020)."""
    transforms = import_torchvision().transforms
    return Seeded(transforms.RandomErasing(probability, ERASED_AREA, ERASED_RATIO, value=0))
