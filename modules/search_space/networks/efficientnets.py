"""EfficientNet-B0 (Tan and Le, 2019, table 1), and Lite0 to Lite2 with ReLU6 and without squeeze-and-excitation.

`efficientnet_b0_tf` has the padding of TensorFlow, in which B0 was published; the others have that of torchvision.
"""
from __future__ import annotations

from dataclasses import replace
from math import ceil

from modules.search_space.networks.rows import Row, expand_head, register_both, register_network, scaled

# Expand ratio, channels, blocks, stride, kernel.
_B0 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
       (6, 320, 1, 1, 3))
_LAST = 1280


def _b0(width: float) -> list[Row]:
    return [Row("Conv", scaled(32, width), stride=2, act="swish"), *_body("MBConv", "swish", width)]


def _tensorflow_b0(width: float) -> list[Row]:
    return [replace(row, block=f"{row.block}Same") for row in _b0(width)]


def _body(block: str, act: str, width: float, depth: float = 1.0) -> list[Row]:
    """The stages; `depth` does not change the first and the last one, as in Lite."""
    rows = []
    for expand, channels, blocks, stride, kernel in _B0:
        repeats = blocks if blocks == 1 else ceil(blocks * depth)
        rows += [Row(block, scaled(channels, width), kernel, expand, stride if i == 0 else 1, act)
                 for i in range(repeats)]
    return rows


def _lite(factor: float, depth: float):
    """Rows of a Lite network, whose first convolution keeps its width."""
    def rows(width: float) -> list[Row]:
        return [Row("Conv", scaled(32, width), stride=2, act="relu6"),
                *_body("MobileNetV2", "relu6", factor * width, depth)]
    return rows


def _heads(act: str):
    return [expand_head(lambda width: scaled(_LAST, max(width, 1)), 0, act, pool=True),
            expand_head(lambda width: scaled(_LAST, width), 0, act, pool=True)]


register_both("efficientnet_b0", _b0, *_heads("swish"))
register_network("efficientnet_b0_tf", _tensorflow_b0, _heads("swish")[0], 224)
register_both("efficientnet_lite0", _lite(1.0, 1.0), *_heads("relu6"))
register_network("efficientnet_lite1", _lite(1.0, 1.1), _heads("relu6")[0], 240)
register_network("efficientnet_lite2", _lite(1.1, 1.2), _heads("relu6")[0], 260)
