"""MobileNetV2, V3-Large and V4-Conv-S and -M as published at 224 pixels, and their forms for 32 pixels (`_cifar`)."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from modules.search_space.baselines import MOBILENET_V2_ROWS
from modules.search_space.networks.rows import Row, expand_head, register_both, scaled

# Howard et al., 2019, table 1: kernel, expanded channels, channels, squeeze-and-excitation, activation, stride.
_V3 = ((3, 16, 16, 0, "relu", 1), (3, 64, 24, 0, "relu", 2), (3, 72, 24, 0, "relu", 1), (5, 72, 40, 1, "relu", 2),
       (5, 120, 40, 1, "relu", 1), (5, 120, 40, 1, "relu", 1), (3, 240, 80, 0, "hswish", 2),
       (3, 200, 80, 0, "hswish", 1), (3, 184, 80, 0, "hswish", 1), (3, 184, 80, 0, "hswish", 1),
       (3, 480, 112, 1, "hswish", 1), (3, 672, 112, 1, "hswish", 1), (5, 672, 160, 1, "hswish", 2),
       (5, 960, 160, 1, "hswish", 1), (5, 960, 160, 1, "hswish", 1))


def _v2(width: float) -> list[Row]:
    rows = [Row("Conv", scaled(32, width), stride=2, act="relu6")]
    for expand, channels, blocks, stride in MOBILENET_V2_ROWS:
        rows += [Row("MobileNetV2", scaled(channels, width), 3, expand, stride if i == 0 else 1, "relu6")
                 for i in range(blocks)]
    return rows


def _v3(width: float) -> list[Row]:
    rows, before = [Row("Conv", scaled(16, width), stride=2, act="hswish")], 16
    for kernel, expanded, channels, se, act, stride in _V3:
        rows.append(Row("MobileNetV3" if se else "MobileNetV2", scaled(channels, width), kernel, expanded / before,
                        stride, act))
        before = channels
    return rows


def _uib(start: int, kernel: int, stride: int, expand: float, cout: int) -> Row:
    if kernel:
        block = {0: "MobileNetV2", kernel: "ExtraDW"}.get(start, f"ExtraDW{start}")
        return Row(block, cout, kernel, expand, stride)
    return Row("ConvNextDW" if start else "FFN", cout, start or 1, expand, stride)


# Qin et al., 2024, appendix: the blocks after the stem of 32 channels.
_V4_CONV_S = (
    Row("Conv", 32, stride=2), Row("Conv", 32, 1), Row("Conv", 96, stride=2), Row("Conv", 64, 1),
    _uib(5, 5, 2, 3, 96), *[_uib(0, 3, 1, 2, 96)] * 4, _uib(3, 0, 1, 4, 96),
    _uib(3, 3, 2, 6, 128), _uib(5, 5, 1, 4, 128), _uib(0, 5, 1, 4, 128), _uib(0, 5, 1, 3, 128),
    *[_uib(0, 3, 1, 4, 128)] * 2)
_V4_CONV_M = (
    Row("FusedMBConv", 48, 3, 4, 2), _uib(3, 5, 2, 4, 80), _uib(3, 3, 1, 2, 80),
    _uib(3, 5, 2, 6, 160), *[_uib(3, 3, 1, 4, 160)] * 2, _uib(3, 5, 1, 4, 160), _uib(3, 3, 1, 4, 160),
    _uib(3, 0, 1, 4, 160), _uib(0, 0, 1, 2, 160), _uib(3, 0, 1, 4, 160),
    _uib(5, 5, 2, 6, 256), _uib(5, 5, 1, 4, 256), *[_uib(3, 5, 1, 4, 256)] * 2, _uib(0, 0, 1, 4, 256),
    _uib(3, 0, 1, 4, 256), _uib(3, 5, 1, 2, 256), _uib(5, 5, 1, 4, 256), *[_uib(0, 0, 1, 4, 256)] * 2,
    _uib(5, 0, 1, 2, 256))


def _v4(body: tuple[Row, ...]) -> Callable[[float], list[Row]]:
    def rows(width: float) -> list[Row]:
        return [replace(row, cout=scaled(row.cout, width)) for row in (Row("Conv", 32, stride=2), *body)]
    return rows


def _of(channels: int) -> Callable[[float], int]:
    return partial(scaled, channels)


# At 32 pixels the head is scaled with the rest: at its full width it would be most of a small network.
register_both("mobilenet_v2", _v2, expand_head(lambda width: scaled(1280, max(width, 1)), None, "relu6"),
              expand_head(_of(1280), None, "relu6"))
register_both("mobilenet_v3_large", _v3, expand_head(_of(960), lambda width: 1280, "hswish"),
              expand_head(_of(960), _of(1280), "hswish"))
for _name, _body in (("mobilenet_v4_conv_s", _V4_CONV_S), ("mobilenet_v4_conv_m", _V4_CONV_M)):
    register_both(_name, _v4(_body), expand_head(lambda width: 960, lambda width: 1280, "relu"),
                  expand_head(_of(960), _of(1280), "relu"))
