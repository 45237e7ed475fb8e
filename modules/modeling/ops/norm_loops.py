"""Batch norm in training on a CPU with the activation and the quantiser behind it, loops that numba compiles.

Each of the operations alone makes passes over the map that take as long as all together. Maps come as rows (R, L) of
float32 or of bf16 as its bits (uint16): the channels of one pixel, or of several pixels side by side. Vectors of
channels (C,) are repeated to L values. A row passes all its operations in the nearest cache.

Numba's cache does not notice a change of `loops.py` or `half.py`: change this file, too.
"""
import numba
import numpy as np

from modules.modeling.ops.half import number, rounded
from modules.modeling.ops.loops import code_bounds, code_sums, quantize, scale_gradients

BLOCK = 64  # rows summed up in float32; the sums of blocks are added up in float64

_compile = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})


@_compile
def statistics(x, running_mean, running_var, momentum, eps):
    """The mean and 1 / sqrt(variance + eps), (C,) float64, of the channels of the rows (R, L). The running statistics
    (C,) move to them by the share `momentum`, as in torch with the variance of a sample."""
    length, channels = x.shape[1], running_mean.size
    part, squares = np.empty(length, np.float32), np.empty(length, np.float32)
    # The first pixel as origin: far from the values, a sum of squares would lose its digits.
    pixel = np.empty(channels, np.float32)
    _copy(x[0, :channels], pixel)
    origin = _repeat(pixel, length)
    sums = np.zeros((2, length))
    for start in range(0, x.shape[0], BLOCK):
        part[:], squares[:] = 0, 0
        for r in range(start, min(start + BLOCK, x.shape[0])):
            row = x[r]
            for i in range(length):
                value = number(row[i]) - origin[i]
                part[i] += value
                squares[i] += value * value
        for i in range(length):
            sums[0, i] += part[i]
            sums[1, i] += squares[i]
    mean, square = _of_channels(sums[0], channels), _of_channels(sums[1], channels)
    count = x.size // channels
    for c in range(channels):
        shift = mean[c] / count
        mean[c] = origin[c] + shift
        variance = max(square[c] / count - shift * shift, 0.0)
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (variance * count / (count - 1) - running_var[c])
        square[c] = 1 / np.sqrt(variance + eps)
    return mean, square


@_compile
def forward(x, mean, inverse, weight, bias, hswish, least, most, scale, beta, levels, integer, out):
    """out (R, L) = codes(activation(weight (x - mean) inverse + bias)), in the format of x.

    The activation is h-swish or a clip to `least` ... `most`; its codes are those of `code_bounds`, without any where
    `levels` is 0.
    """
    step, first, last, low = code_bounds(scale, beta, levels, integer)
    factor, shift = _affine(mean, inverse, weight, bias, x.shape[1])
    a = np.empty(x.shape[1], np.float32)
    for r in range(x.shape[0]):
        if levels:
            _activated(x[r], factor, shift, hswish, least, most, a)
            quantize(a, integer, step, first, last, low, out[r])
        else:
            _activated(x[r], factor, shift, hswish, least, most, out[r])


@_compile
def backward(u, x, mean, inverse, weight, bias, hswish, least, most, scale, beta, levels, integer, g, dx, of_weight,
             of_bias, of_scale, of_beta):
    """Write the gradients of x (R, L), of weight and of bias (C,) for the gradient `u` of the output of `forward`, and
    those of scale and offset (1,) times `g`, if there are codes."""
    step, first, last, low = code_bounds(scale, beta, levels, integer)
    high = low + step * np.float32(levels)
    if not levels:
        low, high = np.float32(-np.inf), np.float32(np.inf)
    length, channels = x.shape[1], mean.size
    factor, shift = _affine(mean, inverse, weight, bias, length)
    centre = _repeat(mean, length)
    d, a, y = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
    part, products, sums = np.empty(length, np.float32), np.empty(length, np.float32), np.zeros((2, length))
    inner, clipped, clipped_y = 0.0, 0.0, 0.0
    masked = hswish or max(least, low) > -np.inf or min(most, high) < np.inf
    for start in range(0, x.shape[0], BLOCK):
        part[:], products[:] = 0, 0
        for r in range(start, min(start + BLOCK, x.shape[0])):
            row = x[r]
            if levels:
                _activated(row, factor, shift, hswish, least, most, a)
                quantize(a, integer, step, first, last, low, y)
                of_row = code_sums(u[r], a, y, low, high)
                inner, clipped, clipped_y = inner + of_row[0], clipped + of_row[1], clipped_y + of_row[2]
            if masked:
                _gradient(u[r], row, factor, shift, hswish, least, most, low, high, d)
                _add(d, row, centre, part, products)
            else:
                _add(u[r], row, centre, part, products)
        for i in range(length):
            sums[0, i] += part[i]
            sums[1, i] += products[i]
    total, product = _of_channels(sums[0], channels), _of_channels(sums[1], channels)
    # Ioffe and Szegedy, 2015: dx = w / s (d - mean of d - (x - m) / s^2 times the mean of d (x - m)).
    of_x, rest = np.empty(channels), np.empty(channels)
    for c in range(channels):
        of_weight[c], of_bias[c] = product[c] * inverse[c], total[c]
        outer, count = weight[c] * inverse[c], x.size // channels
        of_x[c] = -outer * inverse[c] * inverse[c] * product[c] / count
        rest[c] = -outer * total[c] / count - of_x[c] * mean[c]
    by_x, by_one = _repeat(of_x, length), _repeat(rest, length)
    for r in range(x.shape[0]):
        if masked:
            # Made anew: to keep it would take a pass over fresh memory.
            _gradient(u[r], x[r], factor, shift, hswish, least, most, low, high, d)
            _combine(d, x[r], factor, by_x, by_one, dx[r])
        else:
            _combine(u[r], x[r], factor, by_x, by_one, dx[r])
    if levels:
        scale_gradients(inner, clipped, clipped_y, low, g, scale, of_scale, of_beta)


@_compile
def _of_channels(sums, channels):
    """Sums (C,) of channels from those (L,) of the places of a row."""
    result = np.zeros(channels)
    for start in range(0, sums.size, channels):
        for c in range(channels):
            result[c] += sums[start + c]
    return result


@_compile
def _repeat(values, length):
    result = np.empty(length, np.float32)
    for start in range(0, length, values.size):
        for c in range(values.size):
            result[start + c] = values[c]
    return result


@_compile
def _affine(mean, inverse, weight, bias, length):
    """Factor and summand (L,) of the normalised value."""
    factor = weight * inverse
    return _repeat(factor, length), _repeat(bias - mean * factor, length)


@_compile
def _activated(x, factor, shift, hswish, least, most, out):
    """The activation of the normalised row."""
    if hswish:
        _hswish(x, factor, shift, out)
    else:
        _clip(x, factor, shift, least, most, out)


@_compile
def _hswish(x, factor, shift, out):
    for i in range(x.size):
        z = factor[i] * number(x[i]) + shift[i]
        out[i] = rounded(z * _gate(z), out[i])


@_compile
def _clip(x, factor, shift, least, most, out):
    for i in range(x.size):
        z = factor[i] * number(x[i]) + shift[i]
        z = least if z < least else z
        z = most if z > most else z
        out[i] = rounded(z, out[i])


@_compile
def _gradient(u, x, factor, shift, hswish, least, most, low, high, d):
    """The gradient of the normalised row: of the activation at it, 0 where its value is not inside `low` ... `high`."""
    zero = np.float32(0)
    if hswish:
        for i in range(x.size):
            z = factor[i] * number(x[i]) + shift[i]
            value = z * _gate(z)
            slope = z * np.float32(1 / 3) + np.float32(0.5)
            slope = zero if z <= np.float32(-3) else slope
            slope = np.float32(1) if z >= np.float32(3) else slope
            upstream = number(u[i]) * slope
            d[i] = zero if (value <= low) | (value >= high) else upstream
    else:
        below, above = max(least, low), min(most, high)
        for i in range(x.size):
            z = factor[i] * number(x[i]) + shift[i]
            upstream = number(u[i])
            d[i] = zero if (z <= below) | (z >= above) else upstream


@_compile
def _add(d, x, centre, total, product):
    for i in range(x.size):
        value = number(d[i])
        total[i] += value
        product[i] += value * (number(x[i]) - centre[i])


@_compile
def _combine(d, x, of_d, of_x, rest, out):
    for i in range(x.size):
        out[i] = rounded(of_d[i] * number(d[i]) + of_x[i] * number(x[i]) + rest[i], out[i])


@_compile
def _gate(z):
    """That of h-swish, relu6(z + 3) / 6."""
    gate = z + np.float32(3)
    gate = np.float32(0) if gate < np.float32(0) else gate
    gate = np.float32(6) if gate > np.float32(6) else gate
    return gate * np.float32(1 / 6)


@_compile
def _copy(values, out):
    for i in range(values.size):
        out[i] = rounded(number(values[i]), out[i])
