"""Block distillation: all students of a stage learn from one pass of the teacher over each batch."""
from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from modules.block_kd.student.config import BlockKDConfig
from modules.block_kd.student.evaluation import Candidate, evaluate_candidates
from modules.block_kd.student.features import TeacherFeatures
from modules.block_kd.student.files import StudentRecord
from modules.block_kd.student.images import StudentImages
from modules.block_kd.student.run import Batch, StudentRun
from modules.block_kd.teacher import fit_teacher
from modules.datasets.announce import announce, describe
from modules.datasets.build import Data, load_data
from modules.modeling.quant_mode import QuantMode
from modules.search_space.subnet_space import pick
from modules.search_space.superspace import get_superspace
from modules.training.loop.epochs import Pace, Task, train_all
from modules.training.loop.trainee import Position
from modules.utils import dist
from modules.utils.checkpoint import weights_digest
from modules.utils.runs import open_all

_EVALUATION_STREAM = 2**20  # a step no training reaches: its draws give the random configuration evaluated


class BlockTrainer:
    """Trains the students of `config`, stage by stage.

    Args:
        teacher: in eval mode, on `device`; an LSQ+ one for int8 students.
        int8: train `lsq.pth`, from the `checkpoint.pth` beside it.
        test_only: only evaluate the existing students.
        resume, overwrite: continue or replace existing files; without either, existing files are an error.
    """

    def __init__(self, config: BlockKDConfig, teacher, *, int8: bool = False, test_only: bool = False,
                 resume: bool = False, overwrite: bool = False, device: torch.device | None = None):
        self.config, self.teacher, self.device = config, teacher, device or torch.device("cpu")
        self.quant = QuantMode(placement=config.placement) if int8 else None
        self.test_only = test_only
        self.files = {"resume": resume, "overwrite": overwrite}

    def run(self) -> None:
        """Train or evaluate every student."""
        tasks = self.tasks()
        runs = [run for task in tasks for run in task.runs]
        if self.test_only:
            for task in tasks:
                task.evaluate_files()
            return
        with open_all([run.files for run in runs]):
            for run in runs:
                run.check_start()
            for task in tasks:
                task.train()

    def tasks(self) -> list[StageTask]:
        """One task for each stage. Loads the data."""
        c = self.config
        fit_teacher(self.teacher, get_superspace(c.superspace))
        self.teacher_digest = weights_digest(self.teacher.state_dict())
        data = load_data(c.dataset or None, c.dataset_path or None, c.valid_size, labelled=False)
        data = data.normalised(*self.teacher.normalization)  # students see only its features
        dist.check_agreed(dataclasses.asdict(c) | {f"--{name}": value for name, value in self.files.items()} | {
            "--test_only": self.test_only, "int8": self.quant is not None,
            "the number of training images": len(data.train_indices)})
        announce(data, [resolution * self.teacher.enlarge for resolution in c.resolutions])
        images = StudentImages(c, data, self.teacher.enlarge)
        return [StageTask(c, stage, [self._run(stage, block, data) for block in blocks], self.teacher, images,
                          self.device) for stage, blocks in c.stages.items()]

    def _run(self, stage: str, block: int, data: Data) -> StudentRun:
        c = self.config
        record = StudentRecord(c.superspace, stage, block, self.teacher.arch, c.resolutions, data.info.name,
                               self.quant, teacher_digest=self.teacher_digest)
        run = StudentRun(c, record, self.teacher, self.device, **self.files)
        run.num_images = len(data.train_indices)
        return run


class StageTask(Task):
    """The students of one stage, which share the teacher's features."""

    def __init__(self, config: BlockKDConfig, stage: str, runs: list[StudentRun], teacher, images: StudentImages,
                 device: torch.device):
        self.config, self.title, self.runs, self.teacher, self.images = config, stage, runs, teacher, images
        self.device = device

    def train(self) -> None:
        """Train the students, whose files are open, to the last epoch."""
        c = self.config
        for run in self.runs:
            run.build()
            if not run.files.continues:
                run.report.write("train.log", describe(self.images.data, c.resolutions))
        self._start_quantizers([run for run in self.runs if run.record.quant and run.position == Position()])
        most = self.images.limit or c.train_batches
        train_all(self, self.runs, Pace(c.num_epochs, c.print_freq, c.checkpoint_minutes, most))
        for run in self.runs:
            run.close()

    def evaluate_files(self) -> None:
        """Log the losses of the existing students."""
        for run in self.runs:
            run.read()
        for run, losses in zip(self.runs, self._evaluate(self.runs), strict=True):
            run.log_evaluation(losses)
            run.close()

    def _start_quantizers(self, runs: Sequence[StudentRun]) -> None:
        if runs:
            images, _ = next(iter(self.batches(Position())))
            x, _ = TeacherFeatures(self.teacher, self.title, images.to(self.device)).at(max(self.config.resolutions))
            for run in runs:
                run.start_quantizers(x)

    def batches(self, start: Position):
        """The batches of an epoch from a step on."""
        return self.images.train(start)

    def prepare(self, images: torch.Tensor, labels: torch.Tensor, at: Position) -> Batch:
        """The teacher's features and four resolutions: largest, smallest, two random ones; the same for all
        students."""
        resolutions = self.config.resolutions
        rng = np.random.default_rng(np.random.SeedSequence(self.config.manual_seed, spawn_key=dataclasses.astuple(at)))
        return Batch(TeacherFeatures(self.teacher, self.title, images.to(self.device, non_blocking=True)),
                     [max(resolutions), min(resolutions), pick(rng, resolutions), pick(rng, resolutions)])

    def end_epoch(self, trainees: Sequence[StudentRun]) -> None:
        """Evaluate and save the students that have just finished an epoch."""
        for run, losses in zip(trainees, self._evaluate(trainees), strict=True):
            run.add_evaluation(losses)
        for run in trainees:
            run.save_epoch()

    def _evaluate(self, runs: Sequence[StudentRun]) -> list[list[float]]:
        """Losses of the largest, the smallest and one random configuration, on a copy of each student."""
        c, candidates = self.config, []
        for run in runs:
            student, space = copy.deepcopy(run.student), run.student.space
            rng = np.random.default_rng(np.random.SeedSequence(
                c.manual_seed, spawn_key=(run.position.epoch, _EVALUATION_STREAM, *run.key)))
            candidates += [Candidate(student, space.extreme(max), max(c.resolutions)),
                           Candidate(student, space.extreme(min), min(c.resolutions)),
                           Candidate(student, space.sample(rng), pick(rng, c.resolutions))]
        losses = evaluate_candidates(candidates, self.teacher, self.title, self.images.calibration,
                                     self.images.valid(), c.loss_fn, self.device)
        return [losses[3 * i : 3 * i + 3] for i in range(len(runs))]
