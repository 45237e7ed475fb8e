"""Tables of block latencies in nn-Meter's form: a JSON object of `<Name>_<hw>_<cin>_<cout>_<kernel>_<expand>_<stride>_
<act>` to ms, such as `MobileNetV2ResBlock_14_112_112_3_4_1_relu6`."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.latency.block_sums import BlockSums
from modules.latency.keys import Key, parse_key
from modules.latency.platform import Platform, predict_blocks
from modules.latency.prediction import Prediction
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs
from modules.utils.errors import UserError, shorten
from modules.utils.json_files import is_finite, read_json


def read_table(path: str | Path) -> dict[Key, float]:
    """Latencies (ms) of the file `path`; UserError if it is missing, no JSON object, or holds a bad key or value."""
    content = read_json(path, "--latency_table", finite=False)
    if not content:
        raise UserError(f"--latency_table {str(path)!r}: expected a JSON object of block keys to ms")
    table = {}
    for key, value in content.items():
        if not is_finite(value) or value <= 0:
            raise UserError(f"--latency_table {str(path)!r}: latency {shorten(value)} of {key}; expected ms above 0")
        try:
            table[parse_key(key)] = float(value)
        except UserError as error:
            raise UserError(f"--latency_table {str(path)!r}: {error}") from None
    return table


class TablePlatform(BlockSums):
    """Looks blocks up in `table`. `platform` predicts the missing ones, corrects sums and measures networks."""

    def __init__(self, platform: Platform, table: dict[Key, float]):
        super().__init__()
        self.platform, self.table = platform, table
        self.correlation = getattr(platform, "correlation", 0.0)
        if hasattr(platform, "measure_subnet"):
            self.measure_subnet = platform.measure_subnet

    def price_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies of `blocks` on inputs of `hws` pixels, of shape (len(blocks),); a figure of the table has no
        error."""
        found = np.array([self.table.get(key, np.nan) for key in zip(blocks, hws, strict=True)])
        missing = np.flatnonzero(np.isnan(found))
        ms, std, extrapolated = found, np.zeros(len(found)), np.zeros(len(found), bool)
        if len(missing):
            other = predict_blocks(self.platform, [blocks[i] for i in missing], [hws[i] for i in missing])
            ms[missing], std[missing], extrapolated[missing] = other.ms, other.std, other.extrapolated
        return Prediction(ms, std, extrapolated)

    def correct_sums(self, specs: Sequence[NetSpec], sums: Prediction) -> Prediction:
        """Latencies of networks from the sums of their blocks, corrected as `platform` does; arrays of shape
        (len(specs),)."""
        return self.platform.correct_sums(specs, sums) if isinstance(self.platform, BlockSums) else sums
