"""Small networks of ours for images of 32 pixels (docs/measured/cifar10.md). None has a block at the full size, where a
multiply-accumulate costs most time and pays least."""
from __future__ import annotations

from modules.search_space.networks.rows import Row, logits, register_network, scaled

_BASIC = ((32, 1, 2), (64, 1, 2), (64, 0.5, 1), (128, 1, 2))  # channels, expand ratio, stride
_INVERTED = ((32, 3, 1), (32, 3, 1), (64, 4, 2), (64, 3, 1), (64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1))


def _resnet(width: float) -> list[Row]:
    return [Row("Conv", scaled(16, width)),
            *(Row("ResNetBasic", scaled(channels, width), 3, expand, stride) for channels, expand, stride in _BASIC)]


def _mbconv(width: float) -> list[Row]:
    return [Row("Conv", scaled(16, width)), Row("FusedMBConv", scaled(32, width), 3, 2, 2),
            *(Row("MobileNetV2", scaled(channels, width), 3, expand, stride, "relu6")
              for channels, expand, stride in _INVERTED)]


def _head(width: float) -> dict[str, Row]:
    return {"feature_mix": Row("Pool", scaled(128, width), 1, act=None), "logits": logits()}


register_network("resnet10_slim", _resnet, _head, 32)
register_network("mbconv9_slim", _mbconv, _head, 32)
