"""The numbers of one convolution or linear layer in TFLite's layout: filters, padding, integer bias."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.deploy.to_tflite.file import Codes
from modules.modeling.codes import MOST_STEPS, is_dead
from modules.modeling.spec import borders

# XNNPACK has no fast kernel for depthwise filters of more taps. A 7 x 7 filter runs 6 to 9 times faster in int8 and 1.3
# times faster in float as a grouped convolution with this many channels in a group and zeros between them.
_DEPTHWISE_TAPS = 25
_GROUP = 8
# A requantisation factor below this rounds every product away: such a channel gives its bias only.
_DEAD_STEP = 2.0**-30
_BIAS_STEP = 2.0**-20  # of a dead channel, in steps of the output
# XNNPACK refuses a requantisation factor of 256 and more. From 255 on every sum but 0 leaves the output's range on its
# side, so this factor gives the same codes.
_MOST_FACTOR = 255.5


@dataclass(frozen=True)
class Filter:
    """A convolution's operator, its weight in that operator's layout, and the axis of the output channels."""

    operator: str
    weight: np.ndarray
    axis: int = 0


def arrange(weight: np.ndarray, groups: int, grouped: bool = True) -> Filter:
    """`weight` (out, in / groups, height, width) in TFLite's layout, such as (24, 16, 3, 3) as (24, 3, 3, 16). `groups`
    is 1 or the number of channels (depthwise).

    `grouped`: a large depthwise filter becomes a grouped convolution.
    """
    hwc = weight.transpose(0, 2, 3, 1)
    if groups == 1:
        return Filter("CONV_2D", hwc)
    channels, height, width, _ = hwc.shape
    if grouped and height * width > _DEPTHWISE_TAPS and channels % _GROUP == 0:
        return Filter("CONV_2D", hwc * np.eye(_GROUP, dtype=weight.dtype)[np.arange(channels) % _GROUP, None, None])
    return Filter("DEPTHWISE_CONV_2D", hwc.transpose(3, 1, 2, 0), axis=3)


def padding(size: int, kernel: int, stride: int, same: bool = False) -> tuple[tuple[int, int], bool]:
    """Rows to add before and after `size` rows (`borders`), and whether TFLite's SAME adds the same rows."""
    rows = borders(size, kernel, stride, same)
    return rows, rows == borders(size, kernel, stride, same=True)


@dataclass(frozen=True)
class Layer:
    """Weight (out, in / groups, height, width) or (out, in) and bias; as integers, with a scale for each output
    channel.
    """

    weight: np.ndarray
    bias: np.ndarray
    scales: np.ndarray | None = None
    bias_scales: np.ndarray | None = None


def integer_layer(codes: np.ndarray, scales: np.ndarray, bias: np.ndarray, input_scale: float, output_scale: float,
                  factor: float = 1.0) -> Layer:
    """The integers of a layer: its trained `codes` and `scales`, and its float `bias` at the scale input * weight.

    A channel whose bias would not fit, or whose products all round away, keeps the bias alone. A channel whose smallest
    sum leaves the output's range gets a smaller scale, with the same outputs. The file's input holds
    `factor` times the value that `input_scale` codes; the file's weights divide by `factor`.
    """
    input_scale, scales = np.float32(input_scale), scales.astype(np.float32)
    steps = scales.astype(np.float64) * np.float64(input_scale)
    dead = (steps < _DEAD_STEP * output_scale) | is_dead(bias, scales, input_scale)
    if dead.any():
        codes, scales = codes.copy(), scales.copy()
        codes[dead] = 0
        scales[dead] = output_scale * _BIAS_STEP / input_scale
    bias_scales = input_scale * scales
    integers = np.round(bias.astype(np.float64) / bias_scales.astype(np.float64))
    # A bias that is cut here is a thousand times larger than the output's range.
    integers = np.clip(integers, -MOST_STEPS, MOST_STEPS).astype(np.int32)
    scales = np.minimum(scales, np.float32(_MOST_FACTOR * output_scale) / input_scale)
    return Layer(codes, integers, scales / np.float32(factor), input_scale * scales)


def layer_codes(scales: np.ndarray | None, axis: int) -> Codes | None:
    """The codes of a layer's constant with these scales. A scale that all channels share becomes the tensor's: older
    runtimes do not know a linear layer with several."""
    if scales is None:
        return None
    return Codes(tuple(scales[:1] if (scales == scales[0]).all() else scales), axis=axis)
