"""A cache with a limit on its memory."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class BytesCache:
    """Keeps dictionaries of arrays up to `limit` bytes in all; the least recently used go first."""

    def __init__(self, limit: float):
        self.limit, self.size = limit, 0
        self._values: OrderedDict[Hashable, dict] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], dict]) -> dict:
        """The value of `key`; `build` makes it if there is none."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = build()
        self._values[key] = value
        self.size += _bytes(value)
        while self.size > self.limit and len(self._values) > 1:
            self.size -= _bytes(self._values.popitem(last=False)[1])
        return value


def _bytes(value: dict) -> int:
    return sum(array.nbytes for array in value.values() if isinstance(array, np.ndarray))
