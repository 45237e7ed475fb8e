"""The device whose latencies block tables hold, against the one that a platform predicts."""
from __future__ import annotations

import numpy as np

from modules.block_kd.lut.counts import row_blocks
from modules.block_kd.lut.rows import input_size
from modules.block_kd.lut.tables import BlockTables
from modules.latency.platform import Platform
from modules.search_space.superspace import get_superspace

COMPARED = 12  # rows; where a platform measures its blocks, each costs about half a second


def relative_latency(tables: BlockTables, platform: Platform) -> float:
    """How many times as long as on `platform` a block takes on the device of `tables`: the median over rows that are
    spread over all tables."""
    space, resolution, ratios = get_superspace(tables.superspace), tables.resolutions[-1], []
    every = [(stage, block, rows[-1]) for stage, choices in zip(space.searched, tables.stages, strict=True)
             for (block, _), rows in choices.items()]
    for i in np.linspace(0, len(every) - 1, COMPARED).round().astype(int):
        stage, block, rows = every[i]
        size, row = input_size(space, stage, resolution), len(rows.encodings) // 2
        blocks = row_blocks(space.name, stage.name, block, rows.encodings[row],
                            (1, int(rows.input_width[row]), size, size))
        ratios.append(rows.latency[row] / sum(platform.predict_block(spec.args, hw) for spec, hw in blocks))
    return float(np.median(ratios))
