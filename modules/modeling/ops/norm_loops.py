"""Batch norm in training in bf16 on a CPU, loops that numba compiles. Torch's take up to twice as long.

Maps come as rows (R, L) of bits (uint16): the channels of one pixel, or of several pixels side by side. Vectors of
channels are repeated to L values.
"""
import numba
import numpy as np

from modules.modeling.ops.half import number, rounded

BLOCK = 64  # rows summed up in float32; the sums of blocks are added up in float64

_compile = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})


@_compile
def moments(x, sums):
    """Add to `sums`, zeros (2, L) in float64, the sums over rows of x and of its squares."""
    part, squares = np.empty(x.shape[1], np.float32), np.empty(x.shape[1], np.float32)
    for start in range(0, x.shape[0], BLOCK):
        part[:], squares[:] = 0, 0
        for r in range(start, min(start + BLOCK, x.shape[0])):
            row = x[r]
            for i in range(row.size):
                value = number(row[i])
                part[i] += value
                squares[i] += value * value
        for i in range(part.size):
            sums[0, i] += part[i]
            sums[1, i] += squares[i]


@_compile
def scale(x, factor, offset, out):
    """out = factor x + offset; factor and offset (L,) in float32."""
    for r in range(x.shape[0]):
        row, result = x[r], out[r]
        for i in range(row.size):
            result[i] = rounded(factor[i] * number(row[i]) + offset[i], result[i])


@_compile
def gradient_sums(u, x, mean, sums):
    """Add to `sums`, zeros (2, L) in float64, the sums over rows of u and of u (x - mean)."""
    part, products = np.empty(x.shape[1], np.float32), np.empty(x.shape[1], np.float32)
    for start in range(0, x.shape[0], BLOCK):
        part[:], products[:] = 0, 0
        for r in range(start, min(start + BLOCK, x.shape[0])):
            upstream, row = u[r], x[r]
            for i in range(row.size):
                value = number(upstream[i])
                part[i] += value
                products[i] += value * (number(row[i]) - mean[i])
        for i in range(part.size):
            sums[0, i] += part[i]
            sums[1, i] += products[i]


@_compile
def combine(u, x, of_u, of_x, offset, out):
    """out = of_u u + of_x x + offset, a value for each of the L places."""
    for r in range(x.shape[0]):
        upstream, row, result = u[r], x[r], out[r]
        for i in range(row.size):
            result[i] = rounded(of_u[i] * number(upstream[i]) + of_x[i] * number(row[i]) + offset[i], result[i])
