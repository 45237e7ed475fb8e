"""The quantisers' passes over the elements of vectors on a CPU, each one loop that numba compiles.

Operations of torch make 14 passes for the same forward and backward pass, most over fresh memory. The values are
the same to the bit. Numba compiles at the first use, for a few seconds. It keeps the result beside this file, or in its
cache folder. Elements are float32, or bf16 as its bits (uint16).
"""
import numba
import numpy as np

from modules.modeling.ops.half import number, rounded

BLOCK = 4096  # elements summed up in float32; the sums of blocks are added up in float64

# Not set, a loop that is compiled for another one would have that one's rules, and the cache would keep them.
_compile = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
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


@_compile
def code_bounds(scale, beta, levels, integer):
    """The size of a step, the first and the last code to clip to, and the value of the first code, float32; `scale` and
    `beta` are arrays (1,), codes 0 ... `levels`. An `integer` zero point is that of `codes.integer_zero_point`."""
    step, offset, top, zero = abs(np.float32(scale[0])), np.float32(beta[0]), np.float32(levels), np.float32(0)
    if not integer:
        return step, zero, top, offset
    point = np.rint(-offset / step)
    point = zero if point < zero else point  # NaN stays: a diverged training must stay visible
    point = top if point > top else point
    return step, -point, top - point, -point * step


@_compile
def quantize(x, integer, step, first, last, low, out):
    """out = x in codes of `code_bounds`: by `codes_first` if the zero point is `integer`, otherwise by `clip_first`."""
    if integer:
        codes_first(x, step, first, last, out)
    else:
        clip_first(x, step, low, first, last, out)


@_compile
def activation_codes(x, scale, beta, levels, integer, out):
    """out (n,) = `x` (n,) in codes of `code_bounds`; returns the value of the first one."""
    step, first, last, low = code_bounds(scale, beta, levels, integer)
    quantize(x, integer, step, first, last, low, out)
    return low


@_compile
def weight_codes(w, scale, first, last, out):
    """out (n,) = `w` (n,) in codes `first` to `last` of `scale`, an array (1,)."""
    codes_first(w, abs(np.float32(scale[0])), np.float32(first), np.float32(last), out)


@_compile_sums
def activation_gradients(u, x, y, scale, beta, levels, integer, g, dx, dscale, dbeta):
    """Write the gradients of x (n,), of the scale and of the offset (1,) for the gradient `u` of `activation_codes`.

    `y` is its output in float32, or empty: then it is made anew. `g` is the factor of the last two gradients.
    """
    step, first, last, low = code_bounds(scale, beta, levels, integer)
    high = low + step * np.float32(levels)
    if y.size:
        inner, clipped, clipped_y = gradient_sums(u, x, y, low, high, dx)
    else:
        inner, clipped, clipped_y = _made_anew(u, x, integer, step, first, last, low, high, dx)
    scale_gradients(inner, clipped, clipped_y, low, g, scale, dscale, dbeta)


@_compile_sums
def weight_gradients(u, w, y, scale, first, last, g, dw, dscale):
    """Write the gradients of w (n,) and of the scale (1,) for the gradient `u` of the output `y` of `weight_codes`."""
    step = abs(np.float32(scale[0]))
    inner, _, clipped_y = gradient_sums(u, w, y, step * np.float32(first), step * np.float32(last), dw)
    dscale[0] = (inner + clipped_y) / scale[0] * g


@_compile_sums
def scale_gradients(inner, clipped, clipped_y, low, g, scale, dscale, dbeta):
    """Write the gradients of scale and offset, (1,) each, from the sums of `gradient_sums`."""
    dscale[0] = (inner + clipped_y - low * clipped) / scale[0] * g
    dbeta[0] = clipped * g


@_compile_sums
def gradient_sums(u, x, y, low, high, dx):
    """dx = u inside the bounds and 0 outside; all of shape (n,), such as (1204224,).

    Returns:
        The sum of u (y - x) inside the bounds, and the sums of u and of u y outside; floats.
    """
    inner, clipped, clipped_y = 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        # Slices: an index that might be negative would keep the loops from being vectorised.
        part = slice(start, start + BLOCK)
        a, b, c = _block(u[part], x[part], y[part], low, high, dx[part])
        inner, clipped, clipped_y = inner + a, clipped + b, clipped_y + c
    return inner, clipped, clipped_y


@_compile_sums
def _made_anew(u, x, integer, step, first, last, low, high, dx):
    """`gradient_sums` with the output made anew by `quantize`, in float32."""
    inner, clipped, clipped_y, y = 0.0, 0.0, 0.0, np.empty(BLOCK, np.float32)
    for start in range(0, x.size, BLOCK):
        part = slice(start, start + BLOCK)
        xs = x[part]
        ys = y[:xs.size]
        quantize(xs, integer, step, first, last, low, ys)
        a, b, c = _block(u[part], xs, ys, low, high, dx[part])
        inner, clipped, clipped_y = inner + a, clipped + b, clipped_y + c
    return inner, clipped, clipped_y


@_compile_sums
def _block(u, x, y, low, high, dx):
    zero = np.float32(0)
    for i in range(x.size):
        kept = u[i]  # read in any case: a read behind a condition would keep the loop from being vectorised
        dx[i] = rounded(zero, kept) if (number(x[i]) <= low) | (number(x[i]) >= high) else kept
    # A loop that stores is compiled twice, for memory that may overlap and for other; the order of its sums would
    # depend on where the tensors lie, and runs would not repeat.
    return code_sums(u, x, y, low, high)


@_compile_sums
def code_sums(u, x, y, low, high):
    """The sums of `gradient_sums`, of few elements, in float32."""
    zero = np.float32(0)
    inner, clipped, clipped_y = zero, zero, zero
    for i in range(x.size):
        upstream, value = number(u[i]), number(y[i])
        kept = zero if (number(x[i]) <= low) | (number(x[i]) >= high) else upstream
        lost = upstream - kept
        inner += kept * (value - number(x[i]))
        clipped += lost
        clipped_y += lost * value
    return inner, clipped, clipped_y
