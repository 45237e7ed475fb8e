"""Block distillation: all students of a stage learn from one pass of the teacher over each batch."""
from __future__ import annotations

import copy
import itertools
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

from modules.block_kd.student.config import DEBUG_BATCHES, BlockKDConfig
from modules.block_kd.student.evaluation import Candidate, evaluate_candidates
from modules.block_kd.student.features import TeacherFeatures
from modules.block_kd.student.files import StudentRecord
from modules.block_kd.student.run import StudentRun
from modules.block_kd.teacher import check_fits
from modules.datasets.announce import announce, describe
from modules.datasets.build import load_data
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.modeling.quant_mode import QuantMode
from modules.search_space.subnet_space import pick
from modules.search_space.superspace import get_superspace
from modules.training.calibration import load_calibration_images
from modules.utils import dist

_EVALUATION_STREAM = 2**20  # step number no training reaches: its draws are the evaluated random configuration's


class BlockTrainer:
    """Trains the students that `config` names, stage by stage.

    Args:
        teacher: in eval mode, on `device`; an LSQ+ one for int8 students.
        int8: train `lsq.pth`, from the `checkpoint.pth` beside it.
        test_only: only evaluate the students there are.
        resume, overwrite: continue or replace files there are; without either their presence is an error.
    """

    def __init__(self, config: BlockKDConfig, teacher, *, int8: bool = False, test_only: bool = False,
                 resume: bool = False, overwrite: bool = False, device: torch.device | None = None):
        self.config, self.teacher, self.device = config, teacher, device or torch.device("cpu")
        self.quant = QuantMode(placement=config.placement) if int8 else None
        self.test_only = test_only
        self.files = {"resume": resume or test_only, "overwrite": overwrite}
        check_fits(teacher, get_superspace(config.superspace))
        c = config
        self.data = load_data(c.dataset or None, c.dataset_path or None, c.valid_size)
        announce(self.data, c.resolutions)
        size = max(c.resolutions)
        self.train_transform = train_transform(c.augment, size, self.data.info)
        self.eval_transform = eval_transform(size, self.data.info)
        self.limit = DEBUG_BATCHES if c.debug else None
        self._calibration = None

    def run(self) -> None:
        """Train or evaluate every student."""
        for stage, blocks in self.config.stages.items():
            runs = [self._student(stage, block) for block in blocks]
            if self.test_only:
                self._evaluate(runs, stage)
            else:
                self._train_stage(stage, runs)
            for run in runs:
                run.close()

    def _student(self, stage: str, block: int) -> StudentRun:
        c = self.config
        record = StudentRecord(c.superspace, stage, block, self.teacher.arch, c.resolutions, self.data.info.name,
                               self.quant)
        run = StudentRun(c, record, self.teacher, self.device, test_only=self.test_only, **self.files)
        if dist.rank() == 0 and not self.test_only and (run.epoch, run.step) == (0, 0):
            run.write("train.log", describe(self.data, c.resolutions))
        return run

    def _batches(self, epoch: int, start_step: int):
        c = self.config
        return train_batches(self.data, self.train_transform, batch_size=c.train_batch_size, seed=c.manual_seed,
                             epoch=epoch, start_step=start_step, rank=dist.rank(), world_size=dist.world_size(),
                             num_workers=c.num_workers)

    def _train_stage(self, stage: str, runs: list[StudentRun]) -> None:
        if self.quant:
            self._start_quantizers(stage, [run for run in runs if (run.epoch, run.step) == (0, 0)])
        while (epoch := min(run.epoch for run in runs)) < self.config.num_epochs:
            active = [run for run in runs if run.epoch == epoch]
            self._train_epoch(stage, active, epoch)
            for run in active:
                run.epoch, run.step = epoch + 1, 0
            self._evaluate(active, stage)
            for run in active:
                run.save(copy=True)

    def _start_quantizers(self, stage: str, runs: list[StudentRun]) -> None:
        if runs:
            images, _ = next(iter(self._batches(0, 0)))
            x, _ = TeacherFeatures(self.teacher, stage, images.to(self.device)).at(max(self.config.resolutions))
            for run in runs:
                run.start_quantizers(x)

    def _train_epoch(self, stage: str, runs: list[StudentRun], epoch: int) -> None:
        first = min(run.step for run in runs)
        batches = self._batches(epoch, first)
        steps, saved = min(len(batches), self.limit or len(batches)), time.monotonic()
        bar = tqdm(total=steps, initial=first, desc=f"{stage} {epoch + 1}/{self.config.num_epochs}",
                   disable=not (dist.rank() == 0 and sys.stderr.isatty()))
        for step, (images, _) in enumerate(itertools.islice(batches, steps - first), first):
            features = TeacherFeatures(self.teacher, stage, images.to(self.device, non_blocking=True))
            resolutions = self._resolutions(epoch, step)
            lr = self.config.learning_rate(stage, epoch, step, steps)
            active = [run for run in runs if run.due(epoch, step)]
            for run in active:
                run.train_step(features, resolutions, lr)
            bar.update()
            last = step + 1 == steps
            if last or (step + 1) % self.config.print_freq == 0:
                for run in active:
                    run.log_training(epoch, step + 1, steps, lr)
                # One process decides, for clocks differ and all have to save together.
                due = dist.broadcast_object(time.monotonic() - saved > 60 * self.config.checkpoint_minutes)
                if due and not last:
                    for run in active:
                        run.save()
                    saved = time.monotonic()
        bar.close()

    def _resolutions(self, epoch: int, step: int) -> list[int]:
        """Largest, smallest, and two drawn: the same for all students of the stage, which share the features."""
        resolutions = self.config.resolutions
        rng = np.random.default_rng(np.random.SeedSequence(self.config.manual_seed, spawn_key=(epoch, step)))
        return [max(resolutions), min(resolutions), pick(rng, resolutions), pick(rng, resolutions)]

    @property
    def calibration(self) -> list[torch.Tensor]:
        """This process's first training batches, loaded once."""
        if self._calibration is None:
            c = self.config
            self._calibration = load_calibration_images(
                self.data, self.train_transform, min(c.num_calib_batches, self.limit or c.num_calib_batches),
                batch_size=c.train_batch_size, seed=c.manual_seed, num_workers=c.num_workers)
        return self._calibration

    def _evaluate(self, runs: list[StudentRun], stage: str) -> None:
        """Losses of the largest, the smallest and one random configuration, on a copy of each student."""
        c, candidates = self.config, []
        for run in runs:
            student, space = copy.deepcopy(run.student), run.student.space
            rng = np.random.default_rng(np.random.SeedSequence(
                c.manual_seed, spawn_key=(run.epoch, _EVALUATION_STREAM, *run.key)))
            candidates += [Candidate(student, space.extreme(max), max(c.resolutions)),
                           Candidate(student, space.extreme(min), min(c.resolutions)),
                           Candidate(student, space.sample(rng), pick(rng, c.resolutions))]
        batches = eval_batches(self.data.valid, self.data.valid_indices, self.eval_transform,
                               batch_size=c.eval_batch_size, rank=dist.rank(), world_size=dist.world_size(),
                               num_workers=c.num_workers)
        losses = evaluate_candidates(candidates, self.teacher, stage, self.calibration,
                                     itertools.islice(batches, self.limit), c.loss_fn, self.device)
        for i, run in enumerate(runs):
            (run.log_evaluation if self.test_only else run.add_evaluation)(losses[3 * i : 3 * i + 3])
