"""The quantisers' passes over the elements of vectors on a CPU, each one loop that numba compiles.

Operations of torch make 14 passes for the same forward and backward pass, most over fresh memory. The values are
the same to the bit. Numba compiles at the first use, for a few seconds. It keeps the result beside this file, or in its
cache folder. Elements are float32, or bf16 as its bits (uint16).
"""
import numba
import numpy as np

from modules.modeling.ops.half import number, rounded

BLOCK = 4096  # elements summed up in float32; the sums of blocks are added up in float64

_compile = numba.njit(cache=True, nogil=True, error_model="numpy")
_compile_sums = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})


@_compile
def codes_first(x, scale, low, high, out):
    """out = clip(round(x / scale), low, high) scale in float32, x and out (n,), such as (1204224,). NaN stays."""
    for i in range(x.size):
        code = np.rint(number(x[i]) / scale)
        code = low if code < low else code
        code = high if code > high else code
        out[i] = rounded(code * scale, out[i])


@_compile
def clip_first(x, scale, offset, low, high, out):
    """out = round(clip((x - offset) / scale, low, high)) scale + offset, as `codes_first`."""
    for i in range(x.size):
        t = (number(x[i]) - offset) / scale
        t = low if t < low else t
        t = high if t > high else t
        out[i] = rounded(np.rint(t) * scale + offset, out[i])


@_compile_sums
def gradient_sums(u, x, y, low, high, dx):
    """dx = u inside the bounds and 0 outside; all of shape (n,), such as (1204224,).

    Returns:
        The sum of u (y - x) inside the bounds, and the sums of u and of u y outside; floats.
    """
    inner, clipped, clipped_y, zero = 0.0, 0.0, 0.0, np.float32(0)
    for start in range(0, x.size, BLOCK):
        # Slices: an index that might be negative would keep the loops from being vectorised.
        part = slice(start, start + BLOCK)
        us, xs, ys, dxs = u[part], x[part], y[part], dx[part]
        for i in range(xs.size):
            kept = us[i]  # read in any case: a read behind a condition would keep the loop from being vectorised
            dxs[i] = rounded(zero, kept) if (number(xs[i]) <= low) | (number(xs[i]) >= high) else kept
        # A loop that stores is compiled twice, for memory that may overlap and for other; the order of its sums would
        # depend on where the tensors lie, and runs would not repeat.
        a, b, c = zero, zero, zero
        for i in range(xs.size):
            kept, value = number(dxs[i]), number(ys[i])
            lost = number(us[i]) - kept
            a += kept * (value - number(xs[i]))
            b += lost
            c += lost * value
        inner, clipped, clipped_y = inner + a, clipped + b, clipped_y + c
    return inner, clipped, clipped_y
