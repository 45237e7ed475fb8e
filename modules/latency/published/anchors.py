"""Latencies on the Pixel 4 of layers that are in no published table: the stages that are not searched.

The documentation of the published predictor gives single kernels, in ms: first convolution 3 -> 16 at 224 pixels
1.3387; at 112 pixels 1 x 1 convolutions 16 -> 16 0.473 and 64 -> 128 3.031, depthwise 3 x 3 on 16 channels 0.21,
addition of 16 channels 0.256, 3 x 3 convolution 192 -> 192 70.31; last 1 x 1 convolution with swish 0.29 + 0.1; pooling
and convolution of feature_mix 0.55; classifier 1280 -> 1000 0.251.

The rest are estimates. Convolutions scale with the number of pixels. feature_mix does not: it is one convolution on one
pixel. The classifier scales with its inputs. With more output channels the first convolution takes
(27 + cout) / (27 + 16) times as long: it gathers 27 values per pixel, then writes cout. The last 1 x 1 convolution was
given for 216 channels; it scales with them, its swish does not. Depthwise convolution and addition of stage0 scale with
the channels; its 1 x 1 convolution takes 1.161 ms per million activations read or written and 0.00229 ms per million
multiply-accumulates, which is right for both convolutions above.
"""
from __future__ import annotations

import itertools

from modules.latency.published.tables import BlockSamples, Size, make_samples
from modules.modeling.spec import BlockArgs

_RESOLUTIONS = (160, 176, 192, 208, 224)
_FIRST_WIDTHS, _STAGE0_WIDTHS = (16, 24, 32, 40), (16, 24, 32)
_LAST_WIDTHS = (216, 264, 312, 360)
_FIRST_MS, _LAST_MS, _LAST_SWISH_MS, _MIX_MS, _CLASSIFIER_MS = 1.3387, 0.29, 0.1, 0.55, 0.251
_DEPTHWISE_MS, _ADD_MS, _MS_PER_MOVED, _MS_PER_MAC = 0.21, 0.256, 1.161, 0.00229
_PATCH = 27  # values that one output pixel of a 3 x 3 convolution of three channels reads
_KERNELS = {BlockArgs("Conv", 16, 16, 1): 0.473, BlockArgs("Conv", 64, 128, 1): 3.031,
            BlockArgs("Conv", 192, 192, 3): 70.31}


def pixel4_anchors() -> BlockSamples:
    """The figures above as blocks, in ms."""
    anchors: dict[tuple[BlockArgs, Size], float] = {}
    for resolution in _RESOLUTIONS:
        area = (resolution / 224) ** 2
        for block, ms in _KERNELS.items():
            anchors[block, (resolution // 2, resolution // 2)] = ms * area
        for cout in _FIRST_WIDTHS:
            block = BlockArgs("Conv", 3, cout, 3, None, 2, "relu")
            anchors[block, (resolution, resolution)] = _FIRST_MS * area * (_PATCH + cout) / (_PATCH + 16)
        for cin, cout in itertools.product(_FIRST_WIDTHS, _STAGE0_WIDTHS):
            block = BlockArgs("MobileNetV2", cin, cout, 3, 1, 1, "relu")
            anchors[block, (resolution // 2, resolution // 2)] = area * _stage0_ms(cin, cout)
    for size in (5, 6, 7):
        for cin in _LAST_WIDTHS:
            block = BlockArgs("Conv", cin, 1280, 1, None, 1, "swish")
            anchors[block, (size, size)] = (_LAST_MS * cin / 216 + _LAST_SWISH_MS) * (size / 7) ** 2
        anchors[BlockArgs("FeatureMix", 1280, 1920, 1, None, 1, "swish"), (size, size)] = _MIX_MS
    for cin in (1280, 1920):
        anchors[BlockArgs("Logits", cin, 1000, 1, None, 1, None), (1, 1)] = _CLASSIFIER_MS * cin / 1280
    return make_samples(anchors)


def _stage0_ms(cin: int, cout: int) -> float:
    """One block of stage0 at 112 pixels; it has a shortcut if the widths are equal."""
    pixels = 112 * 112 / 1e6
    pointwise = pixels * (_MS_PER_MOVED * (cin + cout) + _MS_PER_MAC * cin * cout)
    return _DEPTHWISE_MS * cin / 16 + pointwise + (_ADD_MS * cout / 16 if cin == cout else 0)
