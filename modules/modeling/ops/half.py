"""Elements in float32 or bf16, for loops that numba compiles. Numba has no bf16: these come as their bits, uint16.

Numba's cache of a loop does not notice a change here: change the files of the loops, too.
"""
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

NAN = np.uint16(0x7FC0)  # as torch writes it


@intrinsic
def _float_of(context, bits):
    return types.float32(types.uint32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def _bits_of(context, value):
    return types.uint32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))


def number(element):
    """The value of an element, as float32. For compiled loops only."""
    raise NotImplementedError


@overload(number, inline="always")
def _number(element):
    if element == types.uint16:
        return lambda element: _float_of(np.uint32(element) << np.uint32(16))
    return lambda element: element


def rounded(value, like):
    """The float32 `value` as an element of the kind of `like`, half to even. For compiled loops only."""
    raise NotImplementedError


@overload(rounded, inline="always")
def _rounded(value, like):
    if like != types.uint16:
        return lambda value, like: value

    def half(value, like):
        bits = _bits_of(value)
        # Half of the last place kept, less one bit where that place is even.
        bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.uint16(bits) if value == value else NAN
    return half
