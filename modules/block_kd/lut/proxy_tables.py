"""Block tables without training: a training-free score in place of the distillation loss."""
from __future__ import annotations

import math

import numpy as np
import torch

from modules.block_kd.lut.builder import LutBuilder, LutConfig, LutJob, share
from modules.block_kd.lut.options import TableOptions
from modules.block_kd.lut.proxy_rank import substage_net
from modules.block_kd.lut.rows import TableRow
from modules.block_kd.lut.tables import ZERO_SHOT
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.scoring import check_proxy, scores, seed_of

REFERENCE = 64  # rows of a stage, of all its block types and windows, whose scores set the scale of its losses
_REFERENCE_INDEX = 10**6  # of the first of them; no table has so many rows


def make_proxy_job(o: TableOptions, proxy: str) -> LutJob:
    """The job of a `ProxyTables`: the tables of the options, without students, images and teacher.

    Raises:
        UserError: an unknown superspace, platform, score, stage or window.
    """
    from modules.latency import get_platform

    space, stages = get_superspace(o.superspace), o.stages
    config = LutConfig(
        superspace=o.superspace, platform=o.platform,
        resolutions=tuple(sorted(o.hw_list or space.block_kd_resolutions)), eval_batch_size=o.train_batch_size,
        loss_fn=f"{ZERO_SHOT}{check_proxy(proxy)}", seed=o.manual_seed, int8=False)
    students = {(stage, block): lambda: None for stage, blocks in stages.items() for block in blocks}
    return LutJob(config=config, students=students, windows=tuple(o.width_window_filter),
                  num_rows=o.num_samples_per_stage, platform=get_platform(o.platform), device=torch.device("cpu"),
                  rows_per_pass=o.rows_per_pass)


class ProxyTables(LutBuilder):
    """Writes tables as `LutBuilder` does. The loss of a row is 1 / (1 + exp(t)); t is its score, standardised by mean
    and deviation of 64 random rows of the stage. The loss is between 0 and 1, lower for a higher score, and does not
    depend on other rows."""

    def __init__(self, job: LutJob, run):
        super().__init__(job, run, None)
        self.proxy, self.batch = job.config.loss_fn.removeprefix(ZERO_SHOT), job.config.eval_batch_size
        self._scales: dict[str, tuple[float, float]] = {}

    def losses(self, stage: str, rows: list[TableRow], students) -> list[float]:
        """Loss of every row; processes share the rows."""
        mean, deviation = self._scale(stage)
        return share(rows, lambda mine: [1 / (1 + math.exp((self._score(row) - mean) / deviation)) for row in mine])

    def _score(self, row: TableRow) -> float:
        net = substage_net(row.stage, row.blocks, row.input_shape[-1])
        seed = seed_of(f"{row.table} {row.index}", self.config.seed)
        return scores(plain_view(net), self.proxy, self.batch, 1, seed)[0]

    def _scale(self, stage: str) -> tuple[float, float]:
        """Mean and deviation of the stage's reference scores."""
        if stage not in self._scales:
            c, space = self.config, get_superspace(self.config.superspace)
            tables = [(block, window) for block in range(len(space.candidates))
                      for window in range(space.stage(stage).num_windows)]
            drawn = [TableRow.draw(c.seed, c.superspace, stage, *tables[i % len(tables)], _REFERENCE_INDEX + i,
                                   c.resolutions) for i in range(max(REFERENCE, len(tables)))]
            values = np.array([self._score(row) for row in drawn])
            values = values[np.isfinite(values)]
            if len(values) < 2 or np.ptp(values) == 0:
                raise UserError(f"score {self.proxy} tells no rows of {stage} of {c.superspace} apart; expected "
                                "another one (--proxy)")
            self._scales[stage] = float(values.mean()), float(values.std())
        return self._scales[stage]
