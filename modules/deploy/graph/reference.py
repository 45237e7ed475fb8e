"""A NumPy executor of a plan: integer arithmetic for the engine's integer steps, float32 for its float steps.

The files of the writers are tested against it. Sums of products of codes are exact in float64. An accumulator becomes a
code as in integer engines: times one float32 factor per channel, rounded half to even, plus the zero point, saturated.
"""
from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from modules.deploy.graph.activations import ACTIVATIONS
from modules.deploy.graph.graph import INPUT, Quantizer, WeightNode
from modules.deploy.graph.plan import Operand, Plan, Step
from modules.modeling.spec import borders


def execute(plan: Plan, images: np.ndarray, known: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Run `plan` on float32 images (N, C, H, W), or on bytes (N, H, W, C) if it takes bytes.

    Args:
        known: results of steps, such as an engine's. Later steps read these instead of the executor's own: each step
            can then be compared alone.

    Returns:
        For each step its result: uint8 codes or float32, (N, C, H, W), such as (1, 24, 56, 56). The classifier's is (N,
        classes).
    """
    results, inputs = {}, {INPUT: images if plan.pixels else images.astype(np.float32)}
    for step in plan.steps:
        results[step.output] = _OPS[step.op](step, [inputs[x.name] for x in step.inputs])
        inputs[step.output] = (known or {}).get(step.output, results[step.output])
    return results


def value(operand: Operand, results: dict[str, np.ndarray]) -> np.ndarray:
    """The float32 values of `operand`."""
    array = results[operand.name]
    return array if operand.quantizer is None else operand.quantizer.values(array)


def _values(step: Step, arrays) -> list[np.ndarray]:
    return [a if x.quantizer is None else x.quantizer.values(a) for x, a in zip(step.inputs, arrays, strict=True)]


def _coded(values: np.ndarray, quantizer: Quantizer | None) -> np.ndarray:
    values = values.astype(np.float32)
    return values if quantizer is None else quantizer.codes(values)


def _valued(function):
    """The executor of a step that applies `function` to the values of its operands."""
    return lambda step, arrays: _coded(function(*_values(step, arrays)), step.quantizer)


def _act(step: Step, arrays):
    return _coded(ACTIVATIONS[step.kind](*_values(step, arrays)), step.quantizer)


def _clip(step: Step, arrays):
    return np.clip(arrays[0], *step.bounds)


def _pad(step: Step, arrays):
    more = step.channels - arrays[0].shape[1]
    return np.pad(arrays[0], ((0, 0), (0, more), (0, 0), (0, 0)), constant_values=step.quantizer.zero_point)


def _image(step: Step, arrays):
    return np.pad(arrays[0], ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=255).transpose(0, 3, 1, 2)


def _conv(step: Step, arrays):
    return _layer(step, arrays[0], lambda x, weight: convolve(x, weight, step.node))


def _linear(step: Step, arrays):
    return _layer(step, arrays[0].reshape(len(arrays[0]), -1), lambda x, weight: x @ weight.T)


def _layer(step: Step, x: np.ndarray, product) -> np.ndarray:
    """A convolution or classifier: `product` of the input and the weight, plus the bias, as codes or as float."""
    node = step.node
    column = (-1,) + (1,) * (x.ndim - 2)
    if node.codes is None:
        return (product(x.astype(np.float64), node.weight.astype(np.float64)) + node.bias.reshape(column)).astype(
            np.float32)
    bias, scale = node.bias_codes()
    total = product(x.astype(np.float64) - node.quantizer.zero_point, node.codes.astype(np.float64))
    total = (total + bias.reshape(column)).astype(np.float32)
    if step.quantizer is None:
        return total * scale.reshape(column)
    factor = (scale / np.float32(step.quantizer.scale)).reshape(column)
    return np.clip(np.round(total * factor) + step.quantizer.zero_point, 0, 255).astype(np.uint8)


def convolve(x: np.ndarray, weight: np.ndarray, node: WeightNode) -> np.ndarray:
    """Convolution of `x` (N, C, H, W) with `weight` (O, C / groups, k, k), groups 1 or C, at the node's stride, padded
    by k // 2, or as TensorFlow does. Example: (1, 16, 32, 32) with (24, 16, 3, 3) at stride 2 gives (1, 24, 16, 16)."""
    kernel, stride = weight.shape[2], node.stride
    pads = [borders(size, kernel, stride, same=True) if node.same else (kernel // 2,) * 2 for size in x.shape[2:]]
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    windows = sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    if node.groups == 1:
        return np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    return np.einsum("nchwij,cij->nchw", windows, weight[:, 0])


_OPS = {
    "image": _image, "quantize": _valued(lambda x: x), "clip": _clip, "pad": _pad, "conv": _conv, "linear": _linear,
    "act": _act,
    "pool": _valued(lambda x: x.mean((2, 3), keepdims=True, dtype=np.float64)),
    "mul": _valued(lambda x, y: x * y), "add": _valued(lambda x, y: x + y),
}
