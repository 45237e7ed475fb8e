"""AutoAugment, policy v0: the learned policy of the TPU EfficientNet training, used with --augment auto_augment_tf.

One of 25 sub-policies is drawn per image. It has two operations, each with a probability and a magnitude m. The level
of the operation is drawn around m. OPERATIONS holds the operations and their arguments.
"""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from modules.search_space.preprocessing import IMAGENET_MEAN

FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)  # for pixels that a geometric operation uncovers
LEVEL_STD = 0.5
MAX_LEVEL = 10.0
_RESAMPLING = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

# (operation, probability, magnitude) twice per sub-policy
POLICY_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def _signed(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() < 0.5 else value


def _resampling(rng: np.random.Generator) -> Image.Resampling:
    return _RESAMPLING[rng.integers(len(_RESAMPLING))]


def _color(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Color(image).enhance(0.18 * level + 0.1)


def _rotate(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return image.rotate(_signed(3 * level, rng), resample=_resampling(rng), fillcolor=FILL)


def _affine(image: Image.Image, matrix: tuple, rng: np.random.Generator) -> Image.Image:
    """Output pixel (x, y) is taken from (a x + b y + c, d x + e y + f) of the image, matrix = (a, b, c, d, e, f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=_resampling(rng), fillcolor=FILL)


def _shear_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, _signed(0.03 * level, rng), 0, 0, 1, 0), rng)


def _shear_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, _signed(0.03 * level, rng), 1, 0), rng)


def _translate_y_rel(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, _signed(0.045 * level, rng) * image.height), rng)


def _posterize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    bits = int(0.4 * level) + 4
    return image if bits >= 8 else ImageOps.posterize(image, bits)


def _solarize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(image, int(25.6 * level))


def _solarize_add(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    added = int(11 * level)
    table = [min(value + added, 255) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


OPERATIONS = {
    "AutoContrast": lambda image, level, rng: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, rng: ImageOps.equalize(image),
    "Invert": lambda image, level, rng: ImageOps.invert(image),
    "Color": _color,
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateYRel": _translate_y_rel,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
}


def apply_op(image: Image.Image, name: str, level: float, rng: np.random.Generator) -> Image.Image:
    """The RGB image after one operation at `level` (0 to 10). Signs and resampling are drawn from `rng`."""
    return OPERATIONS[name](image, level, rng)


def draw_level(magnitude: float, rng: np.random.Generator) -> float:
    """A draw of clip(normal(magnitude, 0.5), 0, 10)."""
    return float(np.clip(rng.normal(magnitude, LEVEL_STD), 0.0, MAX_LEVEL))


class AutoAugment:
    """Callable (image, rng) -> image: one sub-policy of `policy`, drawn uniformly."""

    def __init__(self, policy: tuple = POLICY_V0):
        self.policy = policy

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for name, probability, magnitude in self.policy[rng.integers(len(self.policy))]:
            if rng.random() < probability:
                image = apply_op(image, name, draw_level(magnitude, rng), rng)
        return image
