"""Rank correlation between training-free scores and distillation losses of sub-stages, from block tables."""
from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from modules.block_kd.lut.tables import input_size, row_numbers, table_file, table_rows
from modules.modeling.net_spec import NetSpec, stage_blocks, stage_choice
from modules.modeling.spec import BlockArgs, BlockSpec, build_block
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.zero_shot.aggregate import rank_aggregate, rank_correlations
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.scoring import scores, seed_of

COLUMNS = ("Flops", "Params", "Latency")  # of the table itself
_CLASSES = 10  # of the classifier behind a sub-stage, for scores that need logits


@dataclass(frozen=True)
class SubStage:
    """One row: its place, its blocks as a network with a classifier, its loss, and its `COLUMNS`."""

    stage: str
    block: int
    window: int
    spec: NetSpec
    loss: float
    columns: tuple[float, float, float]


def draw_substages(folder: str | Path, superspace: str, resolution: int, per_table: int, seed: int) -> list[SubStage]:
    """`per_table` random rows (0: all) of each table of `superspace` at one resolution, in order of the stages.

    Raises:
        UserError: a missing or damaged table, or one without rows of `resolution`.
    """
    space, rng, found = get_superspace(superspace), np.random.default_rng(seed), []
    for position, stage in enumerate(space.searched):
        size = input_size(space, stage, resolution)
        for block in range(len(space.candidates)):
            for window in range(stage.num_windows):
                path = table_file(Path(folder) / superspace, space, stage, (block, window))
                lines = [fields for _, fields, row in table_rows(path, space, stage, (block, window)) if row[0] == size]
                if not lines:
                    raise UserError(f"{path}: no row for resolution {resolution} (input size {size})")
                if per_table and per_table < len(lines):
                    lines = [lines[i] for i in sorted(rng.choice(len(lines), per_table, replace=False))]
                choices = [0] * len(space.searched)
                choices[position] = block
                config = SupernetConfig(space.name, tuple(choices), (-1,) * len(space.searched))
                found += [_substage(config, stage, block, window, fields) for fields in lines]
    return found


def _substage(config: SupernetConfig, stage, block: int, window: int, fields: list[str]) -> SubStage:
    _, width, side, _ = map(int, fields[1].split("x"))
    candidate, choices = stage_choice(config, stage.name, fields[0])
    net = substage_net(stage.name, stage_blocks(candidate, stage, width, choices), side)
    loss, *columns = row_numbers(fields)
    return SubStage(stage.name, block, window, net, loss, tuple(columns))


def substage_net(stage: str, blocks: tuple[BlockSpec, ...], side: int) -> NetSpec:
    """The blocks of a stage as a network with a classifier, on an input of `side` pixels."""
    last = blocks[-1].args.cout
    head = (("pool", (build_block(BlockArgs("Pool", last, last)),)),
            ("logits", (build_block(BlockArgs("Logits", last, _CLASSES)),)))
    return NetSpec(((stage, blocks), *head), side)


def score_substages(rows: list[SubStage], proxy: str, batch: int, seed: int) -> np.ndarray:
    """Scores (n,) of n rows, from their plain views, or the column of the table that `proxy` names. Example: 100 rows,
    (100,)."""
    if proxy in COLUMNS:
        return np.array([row.columns[COLUMNS.index(proxy)] for row in rows])
    return np.array([scores(plain_view(row.spec), proxy, batch, 1, seed_of(str(i), seed))[0]
                     for i, row in enumerate(rows)])


@dataclass(frozen=True)
class Ranking:
    """Correlations of a score with minus the loss in one stage: `across` all its block types, and `within`, the mean
    over its tables. Pairs are (Kendall's tau-b, Spearman's rho)."""

    proxy: str
    stage: str
    rows: int
    across: tuple[float, float]
    within: tuple[float, float]


def rankings(rows: list[SubStage], values: dict[str, np.ndarray], aggregate: str = "") -> list[Ranking]:
    """The rankings of every score of `values`, stage by stage. `aggregate` names a further score: the rank aggregate
    within the stage of all scores except columns of the table (`rank_aggregate`).

    Raises:
        UserError: `aggregate`, and no score but the columns of the table.
    """
    computed = [proxy for proxy in values if proxy not in COLUMNS]
    if aggregate and not computed:
        raise UserError(f"{aggregate} of no score: the columns {', '.join(COLUMNS)} of the tables do not take part; "
                        "name at least one score")
    found = []
    for stage, group in groupby(range(len(rows)), key=lambda i: rows[i].stage):
        members = np.array(list(group))
        scored = {proxy: value[members] for proxy, value in values.items()}
        if aggregate:
            scored[aggregate] = rank_aggregate(np.stack([scored[proxy] for proxy in computed], 1))
        quality = -np.array([rows[i].loss for i in members])
        tables = np.array([(rows[i].block, rows[i].window) for i in members])
        for proxy, value in scored.items():
            within = [rank_correlations(value[mask], quality[mask])
                      for mask in ((tables == table).all(1) for table in np.unique(tables, axis=0))]
            within = np.array([pair for pair in within if np.isfinite(pair).all()]).reshape(-1, 2)
            mean = tuple(within.mean(0).tolist()) if len(within) else (float("nan"),) * 2
            found.append(Ranking(proxy, stage, len(members), rank_correlations(value, quality), mean))
    return found
