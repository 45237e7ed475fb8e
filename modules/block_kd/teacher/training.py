"""The training of a teacher: fp32, or LSQ+ from an fp32 one."""
from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from modules.block_kd.shared import DEBUG_BATCHES
from modules.block_kd.teacher.answers import Answers, keep_statistics
from modules.block_kd.teacher.backbone import Teacher, quantize_layers
from modules.block_kd.teacher.build import build_teacher
from modules.block_kd.teacher.config import FREE_ON_RESUME, TeacherConfig
from modules.block_kd.teacher.files import (
    DEFAULT_ARCH,
    TeacherRecord,
    fresh_record,
    load_teacher,
    load_weights_file,
    read_teacher,
)
from modules.datasets.announce import announce
from modules.datasets.build import Data, data_of, load_data
from modules.datasets.classes import check_enough_classes, check_same_classes, follow_classes
from modules.datasets.embedded import EMBEDDED
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.modeling.network import resize
from modules.modeling.public_weights.packages import PACKAGE
from modules.modeling.quant_mode import QuantMode
from modules.training.evaluation import Accuracy, evaluate
from modules.training.loop.epochs import Pace, Task, train_all
from modules.training.loop.report import Report, log_patterns
from modules.training.loop.trainee import Position, Trainee
from modules.training.optimizer import make_optimizer
from modules.utils import dist
from modules.utils.errors import UserError
from modules.utils.runs import Run


class TeacherTrainer(Trainee, Task):
    """Trains a teacher.

    Args:
        config: settings; empty ones come from the file that training starts from.
        quant_mode: int8 (LSQ+) fine-tuning of `config.teacher_weights`, or of the folder's checkpoint.pth if that is
            empty.
        resume: continue this mode's own checkpoint, if there is one.
        overwrite: start afresh even if there is a checkpoint.
        device: of the training.
    """

    title = "teacher"

    def __init__(self, config: TeacherConfig, *, quant_mode: bool = False, resume: bool = False,
                 overwrite: bool = False, device: torch.device | None = None):
        self.config, self.quant_mode, self.device = config, quant_mode, device or torch.device("cpu")
        prefix = "lsq_" if quant_mode else ""
        files = Run(checkpoint_path(config, quant_mode), logs=log_patterns(prefix, "train.log", "eval.log"),
                    resume=resume, overwrite=overwrite, option="--output_path")
        super().__init__(files, Report(files.path.parent, prefix), batch_size=config.train_batch_size,
                         batch_option="train_batch_size", seed=config.manual_seed,
                         remedy="a smaller --learning_rate or a --grad_clip_value")
        self.history: list[dict] = []
        self.accuracy: dict[int, Accuracy] = {}  # of the last epoch of this run, for each resolution
        self.best_loss = math.inf  # on the validation set; that of the fp32 teacher counts too

    def run(self) -> None:
        """Train to the last epoch."""
        with self.files:
            checkpoint = self.build()
            self.begin(self.data, self.config.resolution, checkpoint, "train.log")
            self.save()
            c = self.config
            train_all(self, [self], Pace(c.num_epochs, c.print_freq, c.checkpoint_minutes,
                                         DEBUG_BATCHES if c.debug else c.train_batches))
            self.report.close()

    def build(self) -> dict:
        """Load the data, and make model and optimiser or read them from the checkpoint that training starts from.
        Returns that checkpoint."""
        config = self.config
        torch.manual_seed(config.manual_seed)
        self.answers = self._open_answers()
        teacher, state = None, {}
        if self.files.continues:
            teacher, state = read_teacher(self.path, config.teacher_arch or None, self.quant_mode)
        elif self.quant_mode and not config.teacher_weights:
            teacher, state = read_teacher(self.path.with_name("checkpoint.pth"), config.teacher_arch or None, False)
        self.data = _load_data(config, teacher, labelled=not self.answers)
        self.check_agreed(dataclasses.asdict(config) | {"--quant_mode": self.quant_mode}, len(self.data.train_indices))
        teacher = teacher or self._fresh_teacher(config)
        self.data = self.data.normalised(*teacher.normalization)
        self.config = _completed(config, teacher.record, self.data)
        self.record = self._make_record(teacher)
        self.model = self._prepare_model(teacher)
        c = self.config
        self.optimizer = make_optimizer(self.model, c.optimizer, c.learning_rate, c.momentum, c.weight_decay)
        if self.files.continues or not self.answers:  # an agreement is not compared with an accuracy
            self.best_loss = state.get("best_loss", math.inf)
        if self.files.continues:
            self._continue(state)
        dist.broadcast_state(self.model)
        return state

    def _fresh_teacher(self, config: TeacherConfig) -> Teacher:
        arch, classes = config.teacher_arch or DEFAULT_ARCH, self.data.info.classes
        if config.teacher_weights:
            return load_weights_file(arch, config.teacher_weights, None if self.answers else len(classes))
        teacher = build_teacher(arch, len(classes))
        teacher.record = fresh_record(arch, classes, teacher.form)
        return teacher

    def _open_answers(self) -> Answers | None:
        """The fp32 teacher, if the int8 one learns its answers."""
        c = self.config
        if c.learn == "answers" and not self.quant_mode:
            raise UserError("--learn answers without --quant_mode; allowed: with it, or --learn labels")
        if not self.quant_mode or (c.learn or ("answers" if c.teacher_weights == PACKAGE else "labels")) == "labels":
            return None
        fp32 = None if c.teacher_weights else self.path.with_name("checkpoint.pth")
        return Answers(load_teacher(c.teacher_arch or None, fp32, weights=c.teacher_weights or None).to(self.device))

    def _make_record(self, teacher: Teacher) -> TeacherRecord:
        info, quant = self.data.info, QuantMode(zero_point=self.config.quant_zero_point) if self.quant_mode else None
        if self.answers:  # the classes of the images do not count
            return dataclasses.replace(teacher.record, resolutions=self.config.resolution, quant=quant,
                                       training=dataclasses.asdict(self.config))
        check_enough_classes(info)
        if teacher.num_classes != len(info.classes):
            raise UserError(f"the teacher has {teacher.num_classes} classes, {info.name} has {len(info.classes)}; give "
                            "the data set that it was trained on, or start from --teacher_weights")
        if teacher.record.named:
            check_same_classes(teacher.record.classes, info.classes, str(self.path.parent))
        return TeacherRecord(teacher.arch, info.classes, teacher.form, info.name, self.config.resolution, info.mean,
                             info.std, quant, dataclasses.asdict(self.config))

    def _prepare_model(self, model: Teacher) -> Teacher:
        if self.record.quant:
            self.record.quant.apply(quantize_layers(model))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = self.config.bn_momentum
        return model.to(self.device, memory_format=torch.channels_last)

    def _continue(self, state: dict) -> None:
        before = (state.get("config") or {}).get("training")
        if not before or "step" not in state:
            raise UserError(f"{str(self.path)!r} is a published file; its training cannot be continued")
        self.check_state(state)
        # `epoch` is the last finished one, as in published files.
        self.go_on(state, before, dataclasses.asdict(self.config), FREE_ON_RESUME, state["epoch"] + 1)
        self.load_optimizer(state)
        self.history = state["history"]

    def state(self) -> dict:
        """The teacher's part of the checkpoint; the loop adds its own."""
        return {"epoch": self.position.epoch - 1, "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(), "history": self.history, "best_loss": self.best_loss,
                "config": self.record.to_dict()}

    def save(self, *copies: Path) -> None:
        """Write the state, with the statistics of all processes."""
        self._average_norms()
        super().save(*copies)

    # -- training ---------------------------------------------------------------------------------------------------

    def batches(self, start: Position):
        """The batches of an epoch from a step on."""
        c = self.config
        return train_batches(
            self.data, train_transform(c.augment, max(c.resolution), self.data.info), batch_size=c.train_batch_size,
            seed=c.manual_seed, epoch=start.epoch, start_step=start.step, rank=dist.rank(),
            world_size=dist.world_size(), num_workers=c.num_workers)

    def prepare(self, images: torch.Tensor, labels: torch.Tensor, at: Position) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 3, R, R) at the step's resolution, such as (12, 3, 224, 224), and labels (N,), on the device."""
        c, images = self.config, images.to(self.device, non_blocking=True)
        rng = np.random.default_rng(np.random.SeedSequence(c.manual_seed, spawn_key=dataclasses.astuple(at)))
        resolution = int(rng.choice(c.resolution))  # the same on all processes, and after a resume
        images = resize(images, resolution).contiguous(memory_format=torch.channels_last)
        return images, labels.to(self.device, non_blocking=True)

    def train_step(self, batch: tuple[torch.Tensor, torch.Tensor], steps: int) -> torch.Tensor:
        """One step; returns loss and share of right answers, shape (2,)."""
        images, labels = batch
        lr = self.config.rate(self.position.epoch, self.position.step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        if self.answers:
            keep_statistics(self.model)
        logits = self.model(images)
        target = self.answers.probabilities(images) if self.answers else labels
        loss = F.cross_entropy(logits, target)
        loss.backward()
        dist.average_gradients(self.model.parameters())
        if self.config.grad_clip_value:
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.config.grad_clip_value)
        self.optimizer.step()
        right = (logits.detach().argmax(1) == (target.argmax(1) if self.answers else labels)).float().mean()
        return torch.stack((loss.detach(), right))

    def report_means(self, means: list[float], steps: int) -> None:
        """Log loss and accuracy."""
        (loss, right), lr = means, self.optimizer.param_groups[0]["lr"]
        epoch, step = dataclasses.astuple(self.position)
        self.report.log("train.log", f"epoch {epoch} | batch {step}/{steps} | loss {loss:.2f} | acc1 "
                                     f"{100 * right:.2f} | lr {lr:.5f}")
        self.report.scalars("train", {"loss": loss, "acc1": 100 * right, "lr": lr}, epoch * steps + step)

    def end_epoch(self, trainees) -> None:
        """Evaluate and save; UserError if the training collapsed."""
        self._average_norms()
        results = self.accuracy = _evaluate(self.model, self.data, self.config, self.answers)
        self._report_evaluation(results)
        self._check_collapse(results[max(results)].loss)
        self.history.append({"epoch": self.position.epoch - 1} | {f"acc1@{r}": a.top1 for r, a in results.items()}
                            | {f"loss@{r}": a.loss for r, a in results.items()})
        self.save()

    def _average_norms(self) -> None:
        # Each process has seen its own images; the average is that of one process that saw all of them.
        if dist.world_size() > 1:
            for module in self.model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    for statistic in (module.running_mean, module.running_var):
                        dist.all_sum(statistic).div_(dist.world_size())

    def _report_evaluation(self, results: dict[int, Accuracy]) -> None:
        epoch, (best, *others) = self.position.epoch - 1, sorted(results, reverse=True)
        smaller = "".join(f" | acc1@{r} {results[r].top1:.2f}" for r in others)
        self.report.log("eval.log", f"epoch {epoch} | acc1 {results[best].top1:.2f} | acc5 {results[best].top5:.2f} | "
                                    f"loss {results[best].loss:.4f}{smaller}")
        for resolution, accuracy in results.items():
            self.report.scalars("valid", {f"acc1/{resolution}": accuracy.top1, f"loss/{resolution}": accuracy.loss},
                                epoch)

    def _check_collapse(self, loss: float) -> None:
        """UserError if the validation loss is back at that of guessing: quantisers may lose their scale."""
        guessing = math.log(self.model.num_classes)
        if loss > 0.9 * guessing and self.best_loss < 0.5 * guessing:
            raise UserError(f"training collapsed in epoch {self.position.epoch - 1}: the validation loss is "
                            f"{loss:.2f}, that of guessing {guessing:.2f}, the best so far was {self.best_loss:.2f}; "
                            f"the last checkpoint {str(self.path)!r} is kept, try {self.remedy}")
        self.best_loss = min(self.best_loss, loss)


def checkpoint_path(config: TeacherConfig, quant_mode: bool) -> Path:
    """The file that a run of this mode writes."""
    return Path(config.output_path) / ("lsq.pth" if quant_mode else "checkpoint.pth")


def _load_data(config: TeacherConfig, teacher: Teacher | None, labelled: bool = True) -> Data:
    dataset, path = data_of(config.dataset, config.dataset_path, teacher.record if teacher else None)
    return load_data(dataset or None, path or None, labelled=labelled)


def _completed(config: TeacherConfig, record: TeacherRecord, data: Data) -> TeacherConfig:
    """The settings, empty ones filled in from the teacher's record or the data set."""
    default = (64,) if data.info.name in EMBEDDED else (224,)
    resolution = config.resolution or (record.resolutions if record.dataset else default)
    _, path = data_of(config.dataset, config.dataset_path, record)
    return dataclasses.replace(config, teacher_arch=record.arch, dataset=data.info.name, dataset_path=path,
                               resolution=resolution)


def _evaluate(model: Teacher, data: Data, config: TeacherConfig, answers: Answers | None = None
              ) -> dict[int, Accuracy]:
    """Accuracy at each resolution, or the agreement with `answers`. Images are loaded at the largest one and resized,
    as for students."""
    results, count = {}, len(data.test_indices)
    indices = data.test_indices[np.linspace(0, count - 1, min(config.eval_images or count, count)).astype(int)]
    for resolution in config.resolution:
        batches = eval_batches(data.test, indices, eval_transform(max(config.resolution), data.info),
                               batch_size=config.eval_batch_size, rank=dist.rank(), world_size=dist.world_size(),
                               num_workers=config.num_workers)
        batches = itertools.islice(batches, DEBUG_BATCHES if config.debug else None)
        batches = ((resize(images, resolution), labels) for images, labels in batches)
        results[resolution] = evaluate(model, answers.labelled(batches) if answers else batches,
                                       f"teacher {config.teacher_arch}")
    return results


def evaluate_teacher(config: TeacherConfig, *, quant_mode: bool = False,
                     device: torch.device | None = None) -> dict[int, Accuracy]:
    """Accuracy on the validation set, at each resolution, of this mode's checkpoint, or of `config.teacher_weights`.

    Raises:
        UserError: errors as of `load_teacher`; a data set with classes that the teacher does not know.
    """
    weights = config.teacher_weights or None
    teacher = load_teacher(config.teacher_arch or None, None if weights else checkpoint_path(config, quant_mode),
                           weights=weights, quant=quant_mode)
    data = _load_data(config, teacher).normalised(*teacher.normalization)
    config = _completed(config, teacher.record, data)
    announce(data, config.resolution)
    data = follow_classes(data, teacher.record.classes, f"teacher {teacher.arch}", teacher.record.named)
    return _evaluate(teacher.to(device or torch.device("cpu")), data, config)
