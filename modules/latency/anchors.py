"""Latencies on the Pixel 4 of layers that no published table has: the stages that are not searched.

The documentation of the published predictor gives single kernels, in ms: first convolution 3 -> 16 at 224 pixels
1.3387; 1 x 1 convolution 16 -> 16 at 112 pixels 0.473, 64 -> 128 3.031; 3 x 3 convolution 192 -> 192 at 112 pixels
70.31; last 1 x 1 convolution with swish 0.29 + 0.1; pooling and convolution of feature_mix 0.55; classifier
1280 -> 1000 0.251.
Other sizes are estimates: convolutions scale with the number of pixels, feature_mix does not (it is one convolution on
one pixel), the classifier scales with its inputs. With more output channels the first convolution takes
(27 + cout) / (27 + 16) times as long: it gathers 27 values per pixel, then writes cout.
"""
from __future__ import annotations

from modules.latency.published_tables import BlockSamples, Size, make_samples
from modules.modeling.spec import BlockArgs

_RESOLUTIONS = (160, 176, 192, 208, 224)
_FIRST_WIDTHS = (16, 24, 32, 40)
_FIRST_MS, _LAST_MS, _MIX_MS, _CLASSIFIER_MS = 1.3387, 0.39, 0.55, 0.251
_PATCH = 27  # values that one output pixel of a 3 x 3 convolution of three channels reads
_KERNELS = {BlockArgs("Conv", 16, 16, 1): 0.473, BlockArgs("Conv", 64, 128, 1): 3.031,
            BlockArgs("Conv", 192, 192, 3): 70.31}


def pixel4_anchors() -> BlockSamples:
    """The figures above as blocks, in ms."""
    anchors: dict[tuple[BlockArgs, Size], float] = {(block, (112, 112)): ms for block, ms in _KERNELS.items()}
    for resolution in _RESOLUTIONS:
        area = (resolution / 224) ** 2
        for cout in _FIRST_WIDTHS:
            block = BlockArgs("Conv", 3, cout, 3, None, 2, "relu")
            anchors[block, (resolution, resolution)] = _FIRST_MS * area * (_PATCH + cout) / (_PATCH + 16)
    for size in (5, 6, 7):
        anchors[BlockArgs("Conv", 216, 1280, 1, None, 1, "swish"), (size, size)] = _LAST_MS * (size / 7) ** 2
        anchors[BlockArgs("FeatureMix", 1280, 1920, 1, None, 1, "swish"), (size, size)] = _MIX_MS
    for cin in (1280, 1920):
        anchors[BlockArgs("Logits", cin, 1000, 1, None, 1, None), (1, 1)] = _CLASSIFIER_MS * cin / 1280
    return make_samples(anchors)
