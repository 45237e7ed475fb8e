"""One block student in training: its weights, optimiser, progress, files and log."""
from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch

from modules.block_kd.student.config import FREE_ON_RESUME, BlockKDConfig
from modules.block_kd.student.evaluation import LOSSES
from modules.block_kd.student.features import TeacherFeatures
from modules.block_kd.student.files import StudentRecord, build_student, check_held_out, read_student, student_path
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.student.space import StageChoice
from modules.search_space.superspace import get_superspace
from modules.training.loop.report import Report, log_patterns
from modules.training.loop.trainee import Position, Trainee
from modules.training.optimizer import make_optimizer
from modules.utils import dist
from modules.utils.errors import UserError
from modules.utils.files import atomic_write
from modules.utils.runs import Run

CONFIGURATIONS = ("max", "min", "random", "random2")  # of a step, in this order


class Batch(NamedTuple):
    """A batch for all students of a stage: features, and the resolution (pixels) of each configuration."""

    features: TeacherFeatures
    resolutions: list[int]


class StudentRun(Trainee):
    """Trains one student.

    Args:
        record: stage, block, precision and teacher of the student.
        teacher: its teacher.
        resume: continue the student's file, if there is one.
        overwrite: start afresh even if there is a file.

    An int8 student starts from the fp32 one beside it.
    """

    def __init__(self, config: BlockKDConfig, record: StudentRecord, teacher, device: torch.device, *,
                 resume: bool = False, overwrite: bool = False):
        self.config, self.record, self.teacher, self.device = config, record, teacher, device
        prefix = "lsq_" if record.quant else ""
        files = Run(student_path(config.output_path, record.name, record.quant is not None),
                    logs=log_patterns(prefix, "train.log", "eval.log"), files=(f"{prefix}model_*.pth",),
                    resume=resume, overwrite=overwrite, option="--output_path")
        super().__init__(files, Report(files.path.parent, prefix, record.name), batch_size=config.train_batch_size,
                         batch_option="train_batch_size", seed=config.manual_seed,
                         remedy="a smaller --learning_rate_list", name=record.name)
        self.history: list[list[float]] = []
        position = [s.name for s in get_superspace(config.superspace).searched].index(record.stage)
        self.key = (position, record.block)  # of its random draws: they do not depend on other students

    def check_start(self) -> None:
        """UserError if the file where it begins is missing or damaged, published, or of other settings. A student of a
        late stage is then refused before the first stage is trained."""
        if self.files.continues:
            *_, checkpoint = self._read()
            self._go_on(checkpoint)
            self.position = Position()
        elif self.record.quant:
            self._read_fp32()

    def build(self) -> None:
        """Make student and optimiser, or read them from the file. Files of an earlier run are removed, or its logs are
        cut back to the time of the file. `files` is open."""
        self._seed()
        checkpoint = {}
        if self.files.continues:
            self.student, _, checkpoint = self._read()
        else:
            self.student = build_student(self.record, self.teacher)
            if self.record.quant:
                self.student.load_state_dict(self._read_fp32().state_dict())
        self.student.to(self.device)
        c = self.config
        self.optimizer = make_optimizer(self.student, c.optimizer, 1.0, c.momentum, c.weight_decay)
        if checkpoint:
            self._continue(checkpoint)
        dist.broadcast_state(self.student)
        self.files.begin(checkpoint.get("logs"))

    def read(self) -> None:
        """Read the student, to evaluate it. Its settings need not be those of `config`."""
        self._seed()
        self.student, before, checkpoint = self._read()
        self._check_unseen(before, checkpoint)
        self.student.to(self.device)
        dist.broadcast_state(self.student)
        self.position = Position(checkpoint["epoch"] + 1)

    def _seed(self) -> None:
        sequence = np.random.SeedSequence(self.config.manual_seed, spawn_key=self.key)
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def _read(self) -> tuple[StagePlusProj, StudentRecord, dict]:
        r = self.record
        student, before, checkpoint = read_student(self.path, r.superspace, r.stage, r.block, self.teacher,
                                                   r.quant is not None)
        if before.teacher_digest not in ("", r.teacher_digest):
            raise UserError(f"{str(self.path)!r} was distilled from other weights of {r.teacher_arch} "
                            "(--teacher_checkpoint_path); it is continued and evaluated with its own teacher")
        return student, before, checkpoint

    def _read_fp32(self) -> StagePlusProj:
        r, path = self.record, student_path(self.config.output_path, self.record.name, int8=False)
        fp32, record, checkpoint = read_student(path, r.superspace, r.stage, r.block, self.teacher, False,
                                                "fp32 block student, where int8 training starts,")
        self._check_unseen(record, checkpoint)
        return fp32

    def _check_unseen(self, record: StudentRecord, checkpoint: dict) -> None:
        """UserError if the training of another file saw images that are held out here."""
        check_held_out(record, checkpoint.get("num_images"), self.record.dataset,
                       self.num_images + self.config.valid_size, self.config.valid_size)

    def _go_on(self, checkpoint: dict) -> None:
        before = (checkpoint.get("config") or {}).get("training")
        if not before or "step" not in checkpoint:
            raise UserError(f"{str(self.path)!r} is a published file; its training cannot be continued")
        self.check_state(checkpoint)
        self.go_on(checkpoint, before, dataclasses.asdict(self.config), FREE_ON_RESUME, checkpoint["epoch"] + 1)

    def _continue(self, checkpoint: dict) -> None:
        self._go_on(checkpoint)
        self.load_optimizer(checkpoint)
        self.history = checkpoint["history"]

    # -- training ---------------------------------------------------------------------------------------------------

    def start_quantizers(self, features: torch.Tensor) -> None:
        """Take start values of all quantisers from one batch, run in the largest configuration as in training.

        Running statistics are of all configurations and would give other ranges; they stay as they are. The largest
        configuration does not use projected shortcuts between blocks of equal width. A second configuration with
        alternating widths starts them. An unstarted quantiser would take its range from the first evaluation.
        """
        space = self.student.space
        largest = space.extreme(max)
        widths = (min(space.options.widths), max(space.options.widths))
        alternating = tuple(dataclasses.replace(b, width=widths[i % 2]) for i, b in enumerate(largest.blocks))
        norms = [module for module in self.student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
        self.student.train()
        with torch.no_grad():
            for choice in (largest, StageChoice(largest.cin, alternating)):
                self.student.set_active(choice)
                self.student(features)
            for norm, buffers in zip(norms, kept, strict=True):
                for name, buffer in norm.named_buffers():
                    buffer.copy_(buffers[name])

    def train_step(self, batch: Batch, steps: int) -> torch.Tensor:
        """One step: the largest, the smallest and two random configurations, each at its resolution. The gradients are
        added up, averaged over processes and clipped by value. Returns the four losses, shape (4,)."""
        epoch, step = dataclasses.astuple(self.position)
        return self.learn(batch, self.config.learning_rate(self.record.stage, epoch, step, steps))

    def learn(self, batch: Batch, lr: float) -> torch.Tensor:
        """The step of `train_step` at learning rate `lr`."""
        config, space, losses = self.config, self.student.space, []
        epoch, step = dataclasses.astuple(self.position)
        rng = np.random.default_rng(np.random.SeedSequence(config.manual_seed,
                                                           spawn_key=(epoch, step, *self.key)))
        choices = [space.extreme(max), space.extreme(min), space.sample(rng), space.sample(rng)]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self.student.train()
        for i, (choice, resolution) in enumerate(zip(choices, batch.resolutions, strict=True)):
            x, target = batch.features.at(resolution)
            if i and not config.inplace_distill_from_teacher:
                self.student.set_active(choices[0])
                with torch.no_grad():
                    target = self.student(x)
            self.student.set_active(choice)
            loss = LOSSES[config.loss_fn](self.student(x), target)
            loss.backward()
            losses.append(loss.detach())
        parameters = list(self.student.parameters())
        dist.average_gradients(parameters)
        if config.grad_clip_value:
            torch.nn.utils.clip_grad_value_(parameters, config.grad_clip_value)
        self.optimizer.step()
        return torch.stack(losses)

    def report_means(self, means: list[float], steps: int) -> None:
        """Log the losses."""
        (epoch, step), lr = dataclasses.astuple(self.position), self.optimizer.param_groups[0]["lr"]
        shown = ", ".join(f"{value:.4f}" for value in means)
        self.report.scalars("train", dict(zip(CONFIGURATIONS, means, strict=True)) | {"lr": lr}, epoch * steps + step)
        self.report.log("train.log", f"epoch {epoch} | batch {step}/{steps} | losses [{shown}] | lr {lr:.6f}")

    def add_evaluation(self, losses: list[float]) -> None:
        """Keep and log the losses of the largest, the smallest and a random configuration after an epoch."""
        self.history.append(losses)
        self.report.scalars("valid", dict(zip(CONFIGURATIONS, losses, strict=False)), self.position.epoch)
        self.log_evaluation(losses)

    def log_evaluation(self, losses: list[float]) -> None:
        """Log the losses of `add_evaluation`."""
        self.report.log("eval.log", f"epoch {self.position.epoch - 1} | eval losses (max min random): "
                                    + ",".join(f"{value:.4f}" for value in losses))

    # -- files ------------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """The student's part of the checkpoint; the loop adds its own. `epoch` is the last finished epoch."""
        return {"epoch": self.position.epoch - 1, "model": self.student.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "lr_schduler": {"lr_step_size": self.config.lr_step_size},  # [sic] the published key
                "history": self.history, "config": self.record.to_dict() | {"training": _settings(self.config)}}

    def close(self) -> None:
        """Close the logs and free the network: other stages need the memory."""
        self.report.close()
        self.student = self.optimizer = None

    def save_epoch(self) -> None:
        """Write the checkpoint, `model_<epoch>.pth`, and the network as text, after an epoch."""
        dist.on_first(self._write_text)
        self.save(self.path.with_name(f"{self.report.prefix}model_{self.position.epoch - 1}.pth"))

    def _write_text(self) -> None:
        with atomic_write(self.path.with_name("net.txt")) as file:
            file.write(f"{self.student}\n")


def _settings(config: BlockKDConfig) -> dict:
    """The settings in the form of the checkpoint."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
