"""Features of a block's latency: its kernels, their work and traffic, and the block's arguments.

Kernels come from a walk over the block's spec: a new block type needs nothing here.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from modules.modeling.complexity import count_conv
from modules.modeling.spec import BlockArgs, LinearSpec, build_block, output_size
from modules.modeling.walk import walk

# "stem" is a convolution of an image's few channels. "gate" is one on a single pixel (squeeze-and-excitation,
# feature_mix). Engines run both by other code than the rest.
KERNEL_KINDS = ("stem", "gate", "conv1", "conv3", "conv5", "conv7", "dw3", "dw5", "dw7", "linear", "pool", "mul", "add",
                "relu", "swish", "hswish", "hard_sigmoid")
ACTS = (None, "relu", "relu6", "hswish", "swish")
TERMS = 4  # of the roofline: one call, multiply-accumulates, activations moved, weights read
MILLION = 1e6
_STEM_CHANNELS = 4
_KIND = {kind: i for i, kind in enumerate(KERNEL_KINDS)}
_ALIAS = {"relu6": "relu", "sigmoid": "swish"}  # a sigmoid alone stands on single pixels; only the calls count there

BLOCK_COLUMNS = ("hw", "out_hw", "cin", "cout", "hidden", "kernel", "expand", "stride", "act", "macs", "moved",
                 "weights", "intensity", "kernels", "cin_left", "cout_left", "hidden_left", "pixels_left")
_LANES = 16  # channels of one vector instruction


class _KernelOps:
    """Walk backend whose value is (height, width, channels); it records one row per kernel.

    Row: kind, input height and width, output height and width, input and output channels, stride, multiply-accumulates,
    weights.
    """

    def __init__(self):
        self.rows: list[tuple[int, ...]] = []

    def _note(self, kind: str, x, y, stride: int = 1, macs: int = 0, weights: int = 0):
        self.rows.append((_KIND[kind], x[0], x[1], y[0], y[1], x[2], y[2], stride, macs, weights))
        return y

    def conv(self, x, layer):
        counts, _ = count_conv(layer, x[:2])
        for stride, count in zip(layer.strides, counts, strict=False):
            out = (output_size(x[0], stride), output_size(x[1], stride), layer.cout)
            x = self._note(self._conv_kind(x, layer), x, out, stride, count.macs, count.parameters[0])
        return x

    @staticmethod
    def _conv_kind(x, layer) -> str:
        if layer.depthwise:
            return f"dw{layer.kernel}"
        if x[0] * x[1] == 1 and layer.kernel == 1:
            return "gate"
        return "stem" if layer.cin <= _STEM_CHANNELS else f"conv{layer.kernel}"

    def act(self, x, kind, name):
        return self._note(_ALIAS.get(kind, kind), x, x)

    def pool(self, x, name):
        return self._note("pool", x, (1, 1, x[2]))

    def mul(self, x, gate, name):
        return self._note("mul", x, x)

    def add(self, shortcut, x, name):
        return self._note("add", x, x)

    def linear(self, x, layer: LinearSpec):
        weights = layer.cin * layer.cout
        return self._note("linear", x, (1, 1, layer.cout), 1, weights, weights)


@lru_cache(maxsize=500_000)
def _kernel_rows(block: BlockArgs, hw: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
    ops = _KernelOps()
    walk(build_block(block), ops, (*hw, block.cin))
    return tuple(ops.rows)


@dataclass(frozen=True)
class Kernels:
    """The distinct kernels of a list of blocks, and their use by the blocks.

    `rows` is (kernels, 10): see `_KernelOps`. `block` and `kernel` are (uses,): in use i, block `block[i]` runs kernel
    `kernel[i]` once.
    """

    rows: np.ndarray
    block: np.ndarray
    kernel: np.ndarray
    blocks: int

    @property
    def kind(self) -> np.ndarray:
        """Index into `KERNEL_KINDS` of each kernel, (kernels,), such as (40,)."""
        return self.rows[:, 0]

    def terms(self) -> np.ndarray:
        """(kernels, TERMS) float64, such as (40, 4): 1, million multiply-accumulates, million activations moved,
        million weights."""
        r = self.rows.astype(float)
        moved = r[:, 1] * r[:, 2] * r[:, 5] * np.where(self.kind == _KIND["add"], 2, 1) + r[:, 3] * r[:, 4] * r[:, 6]
        return np.stack([np.ones(len(r)), r[:, 8] / MILLION, moved / MILLION, r[:, 9] / MILLION], 1)

    def roofline_columns(self) -> np.ndarray:
        """(kernels, kinds * TERMS) float64, such as (40, 68): `terms` in the columns of the kernel's kind, zero
        elsewhere."""
        columns = np.zeros((len(self.rows), len(KERNEL_KINDS), TERMS))
        columns[np.arange(len(self.rows)), self.kind] = self.terms()
        return columns.reshape(len(self.rows), -1)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add up `values` of kernels, (kernels,) or (kernels, n), over the kernels of each block: (40, 4) of 17 blocks
        gives (17, 4)."""
        if values.ndim == 1:
            return np.bincount(self.block, values[self.kernel], self.blocks)
        return np.stack([np.bincount(self.block, column[self.kernel], self.blocks) for column in values.T], 1)

    def features(self) -> np.ndarray:
        """Inputs of trees over single kernels, (kernels, 12) float64, such as (40, 12): kind, pixels, channels and
        stride, three of the `terms`, intensity, and what the channels leave over."""
        r, (_, macs, moved, weights) = self.rows.astype(float), self.terms().T
        return np.stack([r[:, 0], r[:, 1] * r[:, 2], r[:, 3] * r[:, 4], r[:, 5], r[:, 6], r[:, 7], macs, moved, weights,
                         macs / (moved + weights), r[:, 5] % _LANES, r[:, 6] % _LANES], 1)


def block_kernels(blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Kernels:
    """The kernels of `blocks` on inputs of `hws` pixels; UserError for an unknown block type."""
    known: dict[tuple[int, ...], int] = {}
    users, uses = [], []
    for i, (block, hw) in enumerate(zip(blocks, hws, strict=True)):
        rows = _kernel_rows(block, hw)
        users += [i] * len(rows)
        uses += [known.setdefault(row, len(known)) for row in rows]
    rows = np.array(list(known), dtype=np.int64).reshape(-1, 10)
    return Kernels(rows, np.array(users, dtype=np.int64), np.array(uses, dtype=np.int64), len(blocks))


def hidden_width(block: BlockArgs) -> int:
    """Channels of the block's widest inner tensor."""
    return max(max(row[5], row[6]) for row in _kernel_rows(block, (1, 1)))


def block_features(blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]], kernels: Kernels) -> np.ndarray:
    """Inputs of trees over whole blocks, without the block type.

    Returns:
        (blocks, len(BLOCK_COLUMNS) + kinds) float64: `BLOCK_COLUMNS`, then for each kernel kind the
        multiply-accumulates in millions, or the moved activations in millions for a kind without multiply-accumulates.
        `expand` is 0 for a block without one. Example: (17, 35).
    """
    _, macs, moved, weights = kernels.terms().T
    work = np.zeros((len(macs), len(KERNEL_KINDS)))
    work[np.arange(len(macs)), kernels.kind] = np.where(macs > 0, macs, moved)
    per_kind = kernels.sum(work)
    macs, moved, weights, count = kernels.sum(np.stack([macs, moved, weights, np.ones(len(macs))], 1)).T
    plain = np.array([[h * w, output_size(h, b.stride) * output_size(w, b.stride), b.cin, b.cout, hidden_width(b),
                       b.kernel, b.expand or 0, b.stride, ACTS.index(b.act) if b.act in ACTS else -1]
                      for b, (h, w) in zip(blocks, hws, strict=True)], dtype=float).reshape(-1, 9)
    left = np.concatenate([plain[:, 2:5] % _LANES, plain[:, 1:2] % _LANES], 1)
    return np.concatenate([plain, np.stack([macs, moved, weights, macs / (moved + weights), count], 1), left, per_kind],
                          1)
