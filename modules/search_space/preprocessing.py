"""Images as the input of a network: the crop, the size, and the normalisation of red, green and blue; ImageNet's as
published."""
from __future__ import annotations

from dataclasses import dataclass

IMAGENET_MEAN = (123.675 / 255, 116.280 / 255, 103.530 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
EVAL_CROP = 224 / 256  # part of the side that the centre crop of evaluation keeps


@dataclass(frozen=True)
class Preprocessing:
    """Images as a network was evaluated on them: a centre crop that keeps the part `eval_crop` of the side, loaded with
    `crop_size` pixels, its values of 0..1 normalised by `mean` and `std` of each channel."""

    crop_size: int
    eval_crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
