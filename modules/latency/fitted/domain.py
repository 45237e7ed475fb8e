"""The domain that a latency model was fitted on; outside it, the model extrapolates."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.latency.fitted.features import hidden_width
from modules.modeling.spec import BlockArgs

_MARGIN = 1.05  # sizes and widths beyond the fitted ones by less than this factor count as inside
LEVELS = 3
FAMILIAR, BETWEEN, OUTSIDE = range(LEVELS)  # inside; inside, but at an input size that was not fitted; outside


def _numbers(block: BlockArgs, hw: tuple[int, int]) -> tuple[int, ...]:
    return (*hw, block.cin, block.cout, hidden_width(block))


def _options(block: BlockArgs) -> str:
    return f"{block.kernel}/{block.stride}/{block.act}"


@dataclass(frozen=True)
class Domain:
    """For each fitted block type: smallest and largest height, width, cin, cout and hidden width; the combinations
    `kernel/stride/act`; the input heights."""

    types: tuple[str, ...]
    low: tuple[tuple[int, ...], ...]
    high: tuple[tuple[int, ...], ...]
    options: tuple[tuple[str, ...], ...]
    heights: tuple[tuple[int, ...], ...]

    @staticmethod
    def from_dict(values: dict) -> Domain:
        """The inverse of `dataclasses.asdict`, possibly through JSON."""
        parts = (tuple(tuple(part) for part in values[name]) for name in ("low", "high", "options", "heights"))
        return Domain(tuple(values["types"]), *parts)

    def type_index(self, block: BlockArgs) -> int:
        """Number of the block's type, -1 if it was not fitted."""
        return self.types.index(block.kind) if block.kind in self.types else -1

    def fitted(self, blocks: Sequence[BlockArgs]) -> np.ndarray:
        """Mask (blocks,), such as (17,), of blocks whose type and combination of kernel size, stride and activation
        were fitted."""
        index = [self.type_index(block) for block in blocks]
        return np.array([i >= 0 and _options(b) in self.options[i] for i, b in zip(index, blocks, strict=True)], bool)

    def levels(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> np.ndarray:
        """Distance of each block from the fitted blocks: FAMILIAR, BETWEEN or OUTSIDE; (blocks,), such as (17,).

        A block is OUTSIDE if its type was not fitted, its combination of kernel size, stride and activation is unknown,
        or a size or width is beyond those of its type.
        """
        low, high = np.array(self.low), np.array(self.high)
        index = np.array([self.type_index(block) for block in blocks], dtype=int)
        numbers = np.array([_numbers(block, hw) for block, hw in zip(blocks, hws, strict=True)]).reshape(-1, 5)
        inside = ((numbers >= low[index] / _MARGIN) & (numbers <= high[index] * _MARGIN)).all(1)
        inside &= self.fitted(blocks)
        seen = np.array([hw[0] in self.heights[i] for i, hw in zip(index, hws, strict=True)], dtype=bool)
        return np.where(inside, np.where(seen, FAMILIAR, BETWEEN), OUTSIDE)


def fit_domain(blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Domain:
    """The domain that `blocks` span on inputs of `hws` pixels."""
    numbers: dict[str, list[tuple[int, ...]]] = {}
    options: dict[str, set[str]] = {}
    for block, hw in zip(blocks, hws, strict=True):
        numbers.setdefault(block.kind, []).append(_numbers(block, hw))
        options.setdefault(block.kind, set()).add(_options(block))
    types = tuple(sorted(numbers))
    low, high = (tuple(tuple(pick(column) for column in zip(*numbers[t], strict=True)) for t in types)
                 for pick in (min, max))
    return Domain(types, low, high, tuple(tuple(sorted(options[t])) for t in types),
                  tuple(tuple(sorted({values[0] for values in numbers[t]})) for t in types))
