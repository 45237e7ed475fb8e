"""EfficientNet (Tan and Le, 2019, table 1), and EfficientNet-Lite with ReLU6 and without squeeze-and-excitation.

Lite scales neither its first convolution, nor the head, nor the depth of the first and the last group.

TensorFlow, in which both were published, pads otherwise than torchvision does. `efficientnet_b0_tf` and the Lite
networks have its padding. `efficientnet_b0` and the forms for 32 pixels have that of torchvision.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from modules.search_space.networks.rows import (
    Row,
    expand_head,
    for_small_images,
    register_both,
    register_network,
    scaled,
)


@dataclass(frozen=True)
class Group:
    """Blocks of equal shape; only the first has the stride and changes the number of channels."""

    kernel: int
    stride: int
    expand: int
    cout: int
    repeats: int


@dataclass(frozen=True)
class LiteScale:
    """Factors of a Lite network's widths and depths, and the size of its images in pixels."""

    width: float
    depth: float
    resolution: int


STEM, HEAD = 32, 1280
GROUPS = (Group(3, 1, 1, 16, 1), Group(3, 2, 6, 24, 2), Group(5, 2, 6, 40, 2), Group(3, 2, 6, 80, 3),
          Group(5, 1, 6, 112, 3), Group(5, 2, 6, 192, 4), Group(3, 1, 6, 320, 1))
LITE = {"efficientnet_lite0": LiteScale(1.0, 1.0, 224), "efficientnet_lite1": LiteScale(1.0, 1.1, 240),
        "efficientnet_lite2": LiteScale(1.1, 1.2, 260)}
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3  # its images are (x - 127) / 128, of bytes


def lite_repeats(group: Group, depth: float) -> int:
    """Blocks of a group of a Lite network."""
    return group.repeats if group in (GROUPS[0], GROUPS[-1]) else ceil(group.repeats * depth)


def _b0(width: float) -> list[Row]:
    return [Row("Conv", scaled(STEM, width), stride=2, act="swish"), *_body("MBConv", "swish", width)]


def _body(block: str, act: str, width: float, depth: float = 1.0) -> list[Row]:
    return [Row(block, scaled(group.cout, width), group.kernel, group.expand, group.stride if i == 0 else 1, act)
            for group in GROUPS for i in range(lite_repeats(group, depth))]


def _lite(scale: LiteScale):
    def rows(width: float) -> list[Row]:
        return [Row("Conv", scaled(STEM, width), stride=2, act="relu6"),
                *_body("MobileNetV2", "relu6", scale.width * width, scale.depth)]
    return rows


def _as_tensorflow(rows):
    return lambda width: [replace(row, block=f"{row.block}Same") for row in rows(width)]


def _heads(act: str):
    return [expand_head(lambda width: scaled(HEAD, max(width, 1)), None, act),
            expand_head(lambda width: scaled(HEAD, width), None, act)]


register_both("efficientnet_b0", _b0, *_heads("swish"))
register_network("efficientnet_b0_tf", _as_tensorflow(_b0), _heads("swish")[0], 224)
for _name, _scale in LITE.items():
    register_network(_name, _as_tensorflow(_lite(_scale)), _heads("relu6")[0], _scale.resolution)
register_network("efficientnet_lite0_cifar", lambda width: for_small_images(_lite(LITE["efficientnet_lite0"])(width)),
                 _heads("relu6")[1], 32)
