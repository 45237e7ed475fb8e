"""Networks as sums of their blocks: the base of all platforms that predict blocks."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.latency.prediction import Prediction
from modules.modeling.complexity import count_block
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, build_block


class _Prices:
    """Predictions of blocks, in arrays that grow by doubling."""

    def __init__(self):
        self.size, self.ms, self.std, self.extrapolated = 0, np.zeros(0), np.zeros(0), np.zeros(0, bool)

    def append(self, new: Prediction) -> None:
        """Add predictions after the others."""
        end = self.size + len(new.ms)
        for name in ("ms", "std", "extrapolated"):
            values = getattr(self, name)
            if end > len(values):
                values = np.concatenate([values, np.zeros(end, values.dtype)])
                setattr(self, name, values)
            values[self.size:end] = getattr(new, name)
        self.size = end


class BlockSums:
    """A platform whose networks take as long as their blocks together. A subclass predicts blocks in `price_blocks`. It
    may correct the sums of networks in `correct_sums`.

    Every distinct block is predicted once. `correlation` is the correlation between the errors of two blocks of one
    network.
    """

    correlation = 0.0

    def __init__(self):
        # For each block and input size: its place in `_prices`, and the size of its output.
        self._index: dict[tuple[BlockArgs, tuple[int, int]], tuple[int, tuple[int, int]]] = {}
        self._prices = _Prices()

    def price_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies in ms of different `blocks` on inputs of `hws` pixels; arrays of shape (len(blocks),), such as
        (17,)."""
        raise NotImplementedError

    def correct_sums(self, specs: Sequence[NetSpec], sums: Prediction) -> Prediction:
        """Latencies of networks from the sums of their blocks: these sums here. Arrays of shape (len(specs),)."""
        return sums

    def predict_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies of `blocks` on inputs of `hws` pixels; arrays of shape (len(blocks),), such as (17,)."""
        return self._at([self._place(key)[0] for key in zip(blocks, hws, strict=True)])

    def predict_subnets(self, specs: Sequence[NetSpec]) -> Prediction:
        """Latencies of networks: the sums of their blocks, corrected. Arrays of shape (len(specs),), such as
        (1000,)."""
        return self.correct_sums(specs, self.sum_blocks(specs))

    def sum_blocks(self, specs: Sequence[NetSpec]) -> Prediction:
        """Sums of the latencies of the networks' blocks, whose errors are correlated. Arrays of shape (len(specs),)."""
        places, lengths = [], []
        for spec in specs:
            hw, before = (spec.resolution, spec.resolution), len(places)
            for _, blocks in spec.stages:
                for block in blocks:
                    place, hw = self._place((block.args, hw))
                    places.append(place)
            lengths.append(len(places) - before)
        prices, net = self._at(places), np.repeat(np.arange(len(lengths)), lengths)

        def total(values):
            return np.bincount(net, values, len(lengths))

        std = np.sqrt((1 - self.correlation) * total(prices.std**2) + self.correlation * total(prices.std) ** 2)
        return Prediction(total(prices.ms), std, total(prices.extrapolated) > 0)

    def predict_block(self, block: BlockArgs, hw: tuple[int, int]) -> float:
        """Latency in ms of `block` on an input of `hw` pixels."""
        return float(self.predict_blocks([block], [hw]).ms[0])

    def predict_subnet(self, spec: NetSpec) -> float:
        """Latency in ms of a network."""
        return float(self.predict_subnets([spec]).ms[0])

    def _place(self, key: tuple[BlockArgs, tuple[int, int]]) -> tuple[int, tuple[int, int]]:
        place = self._index.get(key)
        if place is None:
            block, hw = key
            place = self._index[key] = len(self._index), count_block(build_block(block), hw)[1]
        return place

    def _at(self, places: Sequence[int]) -> Prediction:
        known, index = self._prices, np.asarray(places, dtype=np.int64)
        if known.size < len(self._index):
            new = list(self._index)[known.size:]
            known.append(self.price_blocks([block for block, _ in new], [hw for _, hw in new]))
        return Prediction(known.ms[index], known.std[index], known.extrapolated[index])
