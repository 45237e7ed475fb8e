"""Transforms of a PIL image to a network's normalised input, for training and for evaluation."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from modules.utils.errors import check_choice

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from modules.datasets.build import DataInfo

AUGMENTS = ("default", "auto_augment_tf", "auto_augment", "shift")
CROP_RATIO = (3 / 4, 4 / 3)  # width to height of a training crop
CROP_TRIES = 10
STRIP = 16  # longer to shorter side, beyond which an image is cut before evaluation
SMALL = 64  # pixels; up to this size auto_augment treats images like those of CIFAR
# Principal components of the colours of ImageNet (Krizhevsky et al., 2012): standard deviations, and directions as rows
# of (red, green, blue), for values of 0 to 1.
COLOUR_SPREADS = (0.2175, 0.0188, 0.0045)
COLOUR_DIRECTIONS = ((-0.5675, -0.5808, -0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203))


def draw_crop(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float],
              rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw the box of a RandomResizedCrop: (left, top, right, bottom) in whole pixels, inside the image.

    Area (as a part of the image's) uniform in `scale`, width to height log-uniform in `ratio`, position uniform. After
    ten boxes that do not fit, the largest central one with an allowed ratio is taken (torchvision's published rule).
    """
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def draw_shift(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw the box of a crop after padding by an eighth of the side (4 of 32 pixels): as large as the image, moved by
    up to the padding in each direction."""
    left, top = (int(rng.integers(-(side // 8), side // 8 + 1)) for side in (width, height))
    return left, top, left + width, top + height


class ToNormalizedTensor:
    """RGB image -> float32 [3, H, W], scaled to 0..1, then (value - mean) / std per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        import torch

        self.mean, self.std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (mean, std))

    def __call__(self, image: Image) -> Tensor:
        import torch

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)


def draw_light(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the change of (red, green, blue), of values of 0 to 1, that all pixels of an image get (Krizhevsky et al.,
    2012, section 4.1): the sum of the principal components of ImageNet's colours, each times its standard deviation and
    a normal number of standard deviation `strength`."""
    return (rng.normal(0, strength, 3) * COLOUR_SPREADS) @ np.array(COLOUR_DIRECTIONS)


class TrainTransform:
    """Random crop, resized to a square, mirrored at random if the data set allows it, augmented, normalised. Colours
    change by `draw_light` of `lighting`. With probability `erasing` a rectangle is set to 0. With `shifted` the crop is
    the image shifted by a few pixels, black beyond its border."""

    def __init__(self, size: int, info: DataInfo, augment: Callable | None = None, erasing: float = 0.0,
                 shifted: bool = False, lighting: float = 0.0):
        self.size, self.info, self.augment, self.shifted = size, info, augment, shifted
        self.erase, self.lighting = _eraser(erasing), lighting
        self.to_tensor = ToNormalizedTensor(info.mean, info.std)

    def __call__(self, image: Image, rng: np.random.Generator) -> Tensor:
        from PIL import Image

        box = draw_shift(*image.size, rng) if self.shifted else draw_crop(*image.size, self.info.crop_scale, CROP_RATIO,
                                                                          rng)
        image = image.crop(box).resize((self.size, self.size), Image.Resampling.BICUBIC)
        if self.info.hflip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augment is not None:
            image = self.augment(image, rng)
        pixels = self.to_tensor(image)
        if self.lighting:
            pixels += pixels.new_tensor(draw_light(self.lighting, rng) / self.info.std).view(3, 1, 1)
        return self.erase(pixels, rng) if self.erase else pixels


class EvalTransform:
    """Resizes the shorter side (a smaller image is enlarged) so that the centre crop of `size` keeps `eval_crop` of it,
    takes that crop, and normalises it. The ends of a strip are cut off before, for the strip may be huge when enlarged.
    """

    def __init__(self, size: int, info: DataInfo):
        self.size = size
        self.to_tensor = ToNormalizedTensor(info.mean, info.std)
        self.resized = round(size / info.eval_crop)

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Tensor:
        from PIL import Image

        image = _without_ends(image)
        width, height = image.size
        shorter = min(width, height)
        # The longer side is cut off, not rounded, as torchvision does.
        width, height = (int(self.resized * side / shorter) for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return self.to_tensor(image.crop((left, top, left + self.size, top + self.size)))


def _without_ends(image: Image) -> Image:
    """The middle of an image that is longer than STRIP times its shorter side: that long, or a pixel more."""
    longest = STRIP * min(image.size)
    ends = [max(side - longest, 0) // 2 for side in image.size]  # as many pixels at both ends
    if not any(ends):
        return image
    return image.crop((*ends, *(side - end for side, end in zip(image.size, ends, strict=True))))


def train_transform(augment: str, size: int, info: DataInfo, erasing: float = 0.0, lighting: float = 0.0,
                    seen: int = 0) -> TrainTransform:
    """The training transform, a callable (PIL image, numpy Generator) -> float32 tensor [3, size, size], such as [3,
    224, 224].

    augment: "default"; "auto_augment_tf" for AutoAugment v0 after crop and flip; "auto_augment" for torchvision's
    AutoAugment (images of at most 64 pixels get the policy of CIFAR-10 after a shift and flip, as in Zen-NAS);
    "shift" for small shifts and flips, which `train_batches` makes in batches. UserError for anything else.
    erasing: probability that a rectangle is set to 0.
    lighting: strength of the noise of `draw_light`, not with "shift".
    seen: pixels of the images for the network that is trained, if its teacher's are larger; 0: `size`.
    """
    check_choice(augment, AUGMENTS, "augmentation (--augment)")
    if augment == "shift":
        from modules.datasets.shift import Shift

        return Shift(size, info, erasing)
    small = augment == "auto_augment" and (seen or size) <= SMALL
    return TrainTransform(size, info, _augmentation(augment, small), erasing, small, lighting)


def _augmentation(augment: str, small: bool) -> Callable | None:
    if augment == "auto_augment":
        from modules.datasets.torchvision_augment import auto_augment

        return auto_augment(small)
    if augment == "auto_augment_tf":
        from modules.datasets.auto_augment import AutoAugment

        return AutoAugment()
    return None


def _eraser(probability: float) -> Callable | None:
    from modules.datasets.torchvision_augment import random_erasing

    return random_erasing(probability) if probability else None


def eval_transform(size: int, info: DataInfo) -> EvalTransform:
    """The evaluation transform, callable like the training transform. It draws nothing."""
    return EvalTransform(size, info)
