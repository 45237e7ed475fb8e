"""The quantisers' passes over the elements of vectors on a CPU, each one loop that numba compiles.

Operations of torch make 14 passes for the same forward and backward pass, most over fresh memory. The values are
the same to the bit. Numba compiles at the first use, for a few seconds. It keeps the result beside this file, or in its
cache folder.
"""
import numba
import numpy as np

BLOCK = 4096  # elements summed up in float32; the sums of blocks are added up in float64

_compile = numba.njit(cache=True, nogil=True, error_model="numpy")
_compile_sums = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})


@_compile
def codes_first(x, scale, low, high, out):
    """out = clip(round(x / scale), low, high) scale, all float32, x and out (n,), such as (1204224,). NaN stays."""
    for i in range(x.size):
        code = np.rint(x[i] / scale)
        code = low if code < low else code
        code = high if code > high else code
        out[i] = code * scale


@_compile
def clip_first(x, scale, offset, low, high, out):
    """out = round(clip((x - offset) / scale, low, high)) scale + offset, as `codes_first`."""
    for i in range(x.size):
        t = (x[i] - offset) / scale
        t = low if t < low else t
        t = high if t > high else t
        out[i] = np.rint(t) * scale + offset


@_compile_sums
def gradient_sums(u, x, y, low, high, dx):
    """dx = u inside the bounds and 0 outside; all float32 of shape (n,), such as (1204224,).

    Returns:
        The sum of u (y - x) inside the bounds, and the sums of u and of u y outside; floats.
    """
    inner, clipped, clipped_y, zero = 0.0, 0.0, 0.0, np.float32(0)
    for start in range(0, x.size, BLOCK):
        end = min(start + BLOCK, x.size)
        for i in range(start, end):
            kept = u[i]  # read in any case: a read behind a condition would keep the loop from being vectorised
            dx[i] = zero if (x[i] <= low) | (x[i] >= high) else kept
        # A loop that stores is compiled twice, for memory that may overlap and for other; the order of its sums would
        # depend on where the tensors lie, and runs would not repeat.
        a, b, c = zero, zero, zero
        for i in range(start, end):
            lost = u[i] - dx[i]
            a += dx[i] * (y[i] - x[i])
            b += lost
            c += lost * y[i]
        inner, clipped, clipped_y = inner + a, clipped + b, clipped_y + c
    return inner, clipped, clipped_y
