"""Building block tables: losses measured batch by batch for many rows at once, written row by row."""
from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from tqdm import tqdm

from modules.block_kd.lut.options import ROWS_PER_PASS
from modules.block_kd.lut.other_stages import FILE_NAME as OTHER_STAGES_FILE
from modules.block_kd.lut.rows import TableRow
from modules.block_kd.lut.tables import SETTINGS_FILE, read_settings
from modules.block_kd.student.evaluation import Candidate, evaluate_candidates
from modules.block_kd.student.model import StagePlusProj
from modules.datasets.build import Data
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.search_space.superspace import get_superspace
from modules.training.calibration import load_calibration_images
from modules.utils import dist
from modules.utils.errors import UserError
from modules.utils.files import atomic_write
from modules.utils.runs import Run
from modules.utils.text import read_text

STATISTICS_MB = 1024   # batch-norm statistics that the rows of one pass may hold
FILES = ("stage*_*_*.csv", OTHER_STAGES_FILE, "lut_report.png", "lut_report.png.json")
_FIGURES = re.compile(r"(,-?\d+\.\d{4}){4}")  # behind a row's key
CACHED_PIXELS = 50_000_000  # of a validation part that stays decoded between passes: 600 MB


@dataclass(frozen=True, kw_only=True)
class LutConfig:
    """Settings that change the figures in a table. They are kept beside the tables; a continued run must have the
    same. Tables without training have no images and no teacher."""

    superspace: str
    platform: str
    resolutions: tuple[int, ...]
    dataset: str = ""
    valid_size: int = 0
    augment: str = ""
    train_batch_size: int = 0
    num_calib_batches: int = 0
    eval_batches: int = 0        # 0: all
    eval_batch_size: int
    loss_fn: str
    seed: int
    teacher: str = ""
    int8: bool
    placement: str = "lsq"       # of the students' quantisers
    weights: dict = field(default_factory=dict)  # digests, by name: of the teacher, and of the students of a call


@dataclass(frozen=True, kw_only=True)
class LutJob:
    """The tables to build, and the parts to build them from.

    Attributes:
        students: per (stage, block) a function that reads the student.
        windows: width windows to build; all when empty.
        num_rows: rows per table.
        data: images, the students' validation part held out; None: none are needed.
        platform: predicts latencies; only the first process calls `predict_block`.
        rows_per_pass: rows that share one pass of the teacher over the images.
    """

    config: LutConfig
    students: dict
    windows: tuple[int, ...]
    num_rows: int
    data: Data | None = None
    platform: Any
    device: torch.device
    num_workers: int = 0
    rows_per_pass: int = ROWS_PER_PASS

    def calibration_images(self, size: int) -> list[torch.Tensor]:
        """Batches (N, 3, size, size) of training images, such as (64, 3, 96, 96)."""
        c, data = self.config, self.data
        return load_calibration_images(data, train_transform(c.augment, size, data.info), c.num_calib_batches,
                                       batch_size=c.train_batch_size, seed=c.seed, num_workers=self.num_workers)

    def validation_batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of images (N, 3, size, size) that the students held out, and their labels (N,)."""
        c, data = self.config, self.data
        batches = eval_batches(data.valid, data.valid_indices, eval_transform(size, data.info),
                               batch_size=c.eval_batch_size, num_workers=self.num_workers)
        return itertools.islice(batches, c.eval_batches or None)


class LutBuilder:
    """Writes the files `<stage>_<block>_<window>.csv` of `job` to the folder of `run`. SETTINGS_FILE is the state of
    the run. `teacher` is in eval mode on the job's device."""

    def __init__(self, job: LutJob, run: Run, teacher):
        self.job, self.config, self.opened, self.teacher, self.folder = job, job.config, run, teacher, run.path.parent
        self.size = max(job.config.resolutions) * (teacher.enlarge if teacher else 1)

    def run(self, progress=None) -> None:
        """Build the missing rows; `progress(stage, rows done, rows wanted)` is called after every pass.

        Raises:
            UserError: existing tables were made with other settings, or have other rows; a loss is not finite.
        """
        self._begin()
        for stage in dict.fromkeys(stage for stage, _ in self.job.students):
            pending = [row for block, window in self._tables(stage) for row in self._missing(stage, block, window)]
            students = {block: make() for (s, block), make in self.job.students.items() if pending and s == stage}
            done, wanted = 0, len(pending)
            while pending:
                rows = self._take(pending)
                self._append(rows, self.losses(stage, rows, students))
                pending, done = pending[len(rows):], done + len(rows)
                if progress:
                    progress(stage, done, wanted)

    def _tables(self, stage: str):
        """(block, window) of the tables of `stage` to build."""
        windows = range(get_superspace(self.config.superspace).stage(stage).num_windows)
        return [(block, window) for s, block in self.job.students if s == stage
                for window in windows if not self.job.windows or window in self.job.windows]

    # -- files ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        run, ours = self.opened, asdict(self.config)
        before = read_settings(run.path) if run.continues else {}
        if run.continues:
            run.check_same(before, ours)
            ours["weights"] = before.get("weights", {}) | ours["weights"]
        elif not run.found and any(self.folder.glob("*.csv")):
            raise UserError(f"{str(self.folder)!r} holds tables without {SETTINGS_FILE}, which records how they were "
                            "made; give another --output_path")
        run.begin()
        if dist.rank() == 0:
            run.write_json({"settings": before | ours})
        dist.barrier()

    def _missing(self, stage: str, block: int, window: int) -> list[TableRow]:
        rows = [TableRow.draw(self.config.seed, self.config.superspace, stage, block, window, index,
                              self.config.resolutions) for index in range(self.job.num_rows)]
        path = self.folder / rows[0].table if rows else None
        lines = read_text(path, "block table").splitlines() if path and path.is_file() else []
        for number, (line, row) in enumerate(zip(lines, rows, strict=False), start=1):
            if not line.startswith(row.key + ","):
                raise UserError(f"{path}, line {number}: {line[:80]!r} is not the row that seed {self.config.seed} "
                                f"draws, {row.key!r}; move the file away")
            if not _FIGURES.fullmatch(line, len(row.key)):
                raise UserError(f"{path}, line {number}: {line[:80]!r} is no whole row; expected four numbers with "
                                "four decimals after the input's size. Move the file away")
        return rows[len(lines):]

    def _append(self, rows: list[TableRow], losses: list[float]) -> None:
        """Add finished rows to their files; each file is replaced as a whole."""
        if dist.rank() == 0:
            for table, group in itertools.groupby(zip(rows, losses, strict=True), key=lambda pair: pair[0].table):
                path = self.folder / table
                lines = read_text(path, "block table").splitlines() if path.is_file() else []
                lines += [row.line(loss, self.job.platform) for row, loss in group]
                with atomic_write(path) as file:
                    file.writelines(f"{line}\n" for line in lines)
        dist.barrier()

    # -- losses -----------------------------------------------------------------------------------------------------

    def _take(self, pending: list[TableRow]) -> list[TableRow]:
        """The first rows of `pending` that one pass may hold."""
        limit, taken = STATISTICS_MB * 2**20 * dist.world_size(), []
        for row in pending[: self.job.rows_per_pass]:
            limit -= 8 * sum(2 * layer.cout + 1 for block in row.blocks for layer in block.layers
                             if layer.used and getattr(layer, "norm", False))
            if taken and limit < 0:
                break
            taken.append(row)
        return taken

    def losses(self, stage: str, rows: list[TableRow], students: dict[int, StagePlusProj]) -> list[float]:
        """Loss of every row. Processes share the rows; each process sees all images.

        Raises:
            UserError: a loss that is not finite, with its row.
        """
        def measure(mine: list[TableRow]) -> list[float]:
            candidates = [Candidate(students[row.block], row.choice, row.resolution) for row in mine]
            with dist.alone():
                batches = tqdm(self._validation, f"{stage}, {len(rows)} rows", leave=False,
                               disable=not (dist.rank() == 0 and sys.stderr.isatty()))
                return evaluate_candidates(candidates, self.teacher, stage, self._calibration, batches,
                                           self.config.loss_fn, self.job.device) if mine else []

        losses = share(rows, measure)
        for row, loss in zip(rows, losses, strict=True):
            if not loss < float("inf"):
                raise UserError(f"the loss of row {row.key!r} of {row.table} is {loss}; the student "
                                f"{row.stage}_{row.block} is not trained well enough, or the images are too small")
        return losses

    @cached_property
    def _calibration(self) -> list[torch.Tensor]:
        return self.job.calibration_images(self.size)

    @cached_property
    def _kept(self) -> list:
        return list(self.job.validation_batches(self.size))

    @property
    def _validation(self):
        """Batches of (images, labels); a few of them stay decoded between passes."""
        c, held_out = self.config, len(self.job.data.valid_indices)
        images = min(held_out, c.eval_batches * c.eval_batch_size or held_out)
        return self._kept if images * self.size**2 <= CACHED_PIXELS else self.job.validation_batches(self.size)


def share(rows: list[TableRow], losses_of: Callable[[list[TableRow]], list[float]]) -> list[float]:
    """The losses of `rows` by `losses_of`, which each process calls with its share of them."""
    losses, step = [0.0] * len(rows), dist.world_size()
    for rank, part in enumerate(dist.gather_objects(losses_of(rows[dist.rank() :: step]))):
        losses[rank::step] = part
    return losses
