"""The gradient of a depthwise weight on a CPU, a loop that numba compiles. oneDNN takes 2 to 40 times as long."""
import numba
import numpy as np

from modules.modeling.ops.half import number

_compile = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})


@_compile
def weight_gradient(x, u, step_y, step_x, out):
    """Add up out[i, j, c] = sum over images and places (h, w) of u[n, h, w, c] x[n, h step_y + i - k // 2, w step_x +
    j - k // 2, c], where x lies in the map.

    Args:
        x, u: input (N, H, W C) and upstream gradient (N, H', W' C), rows with the channels last, such as (8, 14, 5376);
            float32, float64, or bf16 as its bits (uint16).
        step_y, step_x: strides of the convolution.
        out: zeros (k, k, C), such as (5, 5, 384), float32 or float64; sums are in its format.
    """
    kernel, _, channels = out.shape
    width, width_out, pad, jump = x.shape[2] // channels, u.shape[2] // channels, kernel // 2, step_x * channels
    rows, gradients = np.empty((kernel, x.shape[2]), out.dtype), np.empty(u.shape[2], out.dtype)
    held = np.empty(kernel, np.int64)  # the row of the map that each of `rows` holds
    for n in range(x.shape[0]):
        held[:] = -1
        for h in range(u.shape[1]):
            _widen(u[n, h], gradients)
            for i in range(kernel):
                y = h * step_y + i - pad
                if y < 0 or y >= x.shape[1]:
                    continue
                row = rows[y % kernel]
                if held[y % kernel] != y:
                    _widen(x[n, y], row)
                    held[y % kernel] = y
                for j in range(kernel):
                    first = max(0, (pad - j + step_x - 1) // step_x)
                    end = min(width_out, (width - 1 - j + pad) // step_x + 1)
                    at, place, sums = first, (first * step_x + j - pad) * channels, out[i, j]
                    while at + 4 <= end:  # four places at a time: the sums are read and written once for them
                        _add_four(row[place:], jump, gradients[at * channels:], sums)
                        at, place = at + 4, place + 4 * jump
                    while at < end:
                        values, factors = row[place:place + channels], gradients[at * channels:]
                        for c in range(channels):
                            sums[c] += values[c] * factors[c]
                        at, place = at + 1, place + jump


@_compile
def _widen(source, out):
    for i in range(source.size):
        out[i] = number(source[i])


@_compile
def _add_four(row, jump, gradients, sums):
    n = sums.size
    x0, x1, x2, x3 = row[:n], row[jump:jump + n], row[2 * jump:2 * jump + n], row[3 * jump:3 * jump + n]
    u0, u1, u2, u3 = gradients[:n], gradients[n:2 * n], gradients[2 * n:3 * n], gradients[3 * n:4 * n]
    for c in range(n):
        sums[c] += (x0[c] * u0[c] + x1[c] * u1[c]) + (x2[c] * u2[c] + x3[c] * u3[c])
