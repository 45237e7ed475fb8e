"""The device whose latencies block tables hold, against the one that a platform predicts."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modules.block_kd.lut.rows import TableRow
from modules.block_kd.lut.tables import BlockTables
from modules.block_kd.student.space import StageChoice, stage_config
from modules.latency.platform import Platform
from modules.modeling.complexity import blocks_of
from modules.modeling.net_spec import NetSpec, stage_choice
from modules.search_space.superspace import get_superspace

CLASSES = 1000  # of the stages that tables leave out, as published (other_stages.json)
COMPARED = 12  # rows; where a platform measures its blocks, each costs about half a second


def relative_latency(tables: BlockTables, platform: Platform) -> float:
    """How many times as long as on `platform` a block takes on the device of `tables`: the median over rows that are
    spread over all tables."""
    space, ratios = get_superspace(tables.superspace), []
    every = [(stage.name, choice, rows[-1]) for stage, choices in zip(space.searched, tables.stages, strict=True)
             for choice, rows in choices.items()]
    for i in np.linspace(0, len(every) - 1, COMPARED).round().astype(int):
        stage, (block, window), rows = every[i]
        n = len(rows.encodings) // 2
        _, blocks = stage_choice(stage_config(space.name, stage, block), stage, rows.encodings[n])
        row = TableRow(space.name, stage, block, window, n, StageChoice(int(rows.input_width[n]), blocks),
                       tables.resolutions[-1])
        ratios.append(rows.latency[n] / row.latency(platform))
    return float(np.median(ratios))


def sum_over_network(nets: Sequence[NetSpec], platform: Platform, rows: Sequence[NetSpec] = ()) -> float:
    """How many times as long as a network its blocks take, each timed alone and added up as in block tables: the median
    over `nets`, such as 1.4 for networks of 0.3 ms. A block alone also pays for entering and leaving the runtime, so a
    limit of a network is multiplied by this factor for the tables. `rows`: the same networks at the resolution of the
    tables, if that is another one."""
    sums = [sum(platform.predict_block(block, hw) for block, hw in blocks_of(net)) for net in rows or nets]
    return float(np.median(sums / platform.predict_subnets(nets).ms))


def limit_of_sums(limit: float, nets: Sequence[NetSpec], platform: Platform,
                  tables: BlockTables | None = None, rows: Sequence[NetSpec] = ()) -> float:
    """The limit (ms) for sums of rows of `tables`, such as 0.35, that stands for `limit` (ms) of a network on
    `platform`, such as 0.29. None: tables that are timed on `platform` itself. `nets`, `rows`: as for
    `sum_over_network`.

    The stages that tables leave out are added to their rows with a classifier of CLASSES classes; the limit has what
    this one takes longer than that of `nets`. It has three digits: a second start, with some latencies measured anew,
    finds the same one."""
    sums = limit * sum_over_network(nets, platform, rows) + classifier_surplus(rows or nets, platform)
    return float(f"{sums * (relative_latency(tables, platform) if tables else 1.0):.3g}")


def classifier_surplus(nets: Sequence[NetSpec], platform: Platform) -> float:
    """How many ms longer than those of `nets` classifiers of CLASSES classes take, such as 0.06 for 10 classes: the
    median, at least 0 (models of latency that extrapolate may say less)."""
    lasts = [blocks_of(net)[-1] for net in nets]
    longer = [platform.predict_block(replace(block, cout=CLASSES), hw) - platform.predict_block(block, hw)
              for block, hw in lasts]
    return max(float(np.median(longer)), 0.0)
