"""Platforms whose block latencies come from a fitted `BlockModel`."""
from __future__ import annotations

from collections.abc import Sequence

from modules.latency.block_sums import BlockSums
from modules.latency.fitted.block_model import BlockModel
from modules.latency.prediction import Prediction
from modules.modeling.spec import BlockArgs


class ModelPlatform(BlockSums):
    """Latencies by `model`."""

    def __init__(self, model: BlockModel):
        super().__init__()
        self.model = model
        if model.spread:
            self.correlation = model.spread.correlation

    def price_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies of `blocks` on inputs of `hws` pixels; arrays of shape (len(blocks),), such as (17,)."""
        ms, deviation, outside = self.model.predict(blocks, hws)
        return Prediction(ms, ms * deviation, outside)
