"""The training loop of a teacher: fp32, or LSQ+ from an fp32 one."""
from __future__ import annotations

import dataclasses
import itertools
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from modules.block_kd.teacher.backbone import Teacher, quantize_layers
from modules.block_kd.teacher.build import build_teacher
from modules.block_kd.teacher.config import DEBUG_BATCHES, FREE_ON_RESUME, TeacherConfig
from modules.block_kd.teacher.files import DEFAULT_ARCH, TeacherRecord, load_teacher, load_weights_file, read_teacher
from modules.block_kd.teacher.report import TeacherReport
from modules.datasets.announce import announce
from modules.datasets.build import Data, load_data
from modules.datasets.classes import check_enough_classes, check_same_classes, follow_classes
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.modeling.network import resize
from modules.modeling.quant_mode import QuantMode
from modules.training.evaluation import Accuracy, evaluate
from modules.training.optimizer import decay_groups
from modules.utils import dist
from modules.utils.checkpoint import check_not_written, check_same_settings, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import write_manifest


class TeacherTrainer:
    """Trains a teacher.

    Args:
        config: settings; where they are empty, those of the file that training starts from.
        quant_mode: int8 (LSQ+) fine-tuning of `config.teacher_weights`, or else of the folder's checkpoint.pth.
        resume: continue this mode's own checkpoint.
        overwrite: start afresh where there is a checkpoint already.
        device: where to train.
    """

    def __init__(self, config: TeacherConfig, *, quant_mode: bool = False, resume: bool = False,
                 overwrite: bool = False, device: torch.device | None = None):
        self.device, self.path = device or torch.device("cpu"), checkpoint_path(config, quant_mode)
        self._check_file(resume, overwrite)
        torch.manual_seed(config.manual_seed)
        teacher, state = None, {}
        if resume:
            teacher, state = read_teacher(self.path, config.teacher_arch or None, quant_mode)
        elif quant_mode and not config.teacher_weights:
            teacher, state = read_teacher(self.path.with_name("checkpoint.pth"), config.teacher_arch or None, False)
        self.data = _load_data(config, teacher)
        teacher = teacher or self._fresh_teacher(config)
        self.config = _completed(config, teacher.record, self.data)
        self.record = self._make_record(teacher, quant_mode)
        self.model = self._prepare(teacher)
        self.optimizer = self._make_optimizer()
        self.epoch, self.step, self.history = 0, 0, []
        self.best_loss = state.get("best_loss", math.inf)  # on the validation set, of the fp32 teacher too
        if resume:
            self._continue(state)
        dist.broadcast_state(self.model)
        self.report = TeacherReport(self.path.parent, self.path.stem, fresh=not resume)
        announce(self.data, self.config.resolution, None if resume else self.report.write)

    def _check_file(self, resume: bool, overwrite: bool) -> None:
        if resume and not self.path.is_file():
            raise UserError(f"no checkpoint {str(self.path)!r} to resume from; start without --resume")
        check_not_written(self.path, resume, overwrite, "--output_path")

    def _fresh_teacher(self, config: TeacherConfig) -> Teacher:
        arch, classes = config.teacher_arch or DEFAULT_ARCH, self.data.info.classes
        if config.teacher_weights:
            return load_weights_file(arch, config.teacher_weights, len(classes))
        teacher = build_teacher(arch, len(classes))
        teacher.record = TeacherRecord(arch, classes, teacher.form)
        return teacher

    def _make_record(self, teacher: Teacher, quant_mode: bool) -> TeacherRecord:
        info = self.data.info
        check_enough_classes(info)
        if teacher.num_classes != len(info.classes):
            raise UserError(f"the teacher has {teacher.num_classes} classes, {info.name} has {len(info.classes)}; give "
                            "the data set that it was trained on, or start from --teacher_weights")
        if teacher.record.named:
            check_same_classes(teacher.record.classes, info.classes, str(self.path.parent))
        quant = QuantMode(zero_point=self.config.quant_zero_point) if quant_mode else None
        return TeacherRecord(teacher.arch, info.classes, teacher.form, info.name, self.config.resolution, info.mean,
                             info.std, quant, dataclasses.asdict(self.config))

    def _prepare(self, model: Teacher) -> Teacher:
        if self.record.quant:
            self.record.quant.apply(quantize_layers(model))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = self.config.bn_momentum
        return model.to(self.device, memory_format=torch.channels_last)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        c, groups = self.config, decay_groups(self.model, self.config.weight_decay)
        if c.optimizer == "adam":
            return torch.optim.Adam(groups, lr=c.learning_rate)
        return torch.optim.SGD(groups, lr=c.learning_rate, momentum=c.momentum, nesterov=c.optimizer == "sgd_nesterov")

    def _continue(self, state: dict) -> None:
        before = (state.get("config") or {}).get("training")
        if not before or "step" not in state:
            raise UserError(f"{str(self.path)!r} is a published file; its training cannot be continued")
        check_same_settings(before, dataclasses.asdict(self.config), FREE_ON_RESUME, self.path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.history = state["epoch"] + 1, state["step"], state["history"]

    # -- training ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last epoch."""
        self._save()
        while self.epoch < self.config.num_epochs:
            self._train_epoch()
            self._average_norms()
            results = _evaluate(self.model, self.data, self.config)
            self.report.evaluation(self.epoch, results)
            self._check_collapse(results[max(results)].loss)
            self.history.append({"epoch": self.epoch} | {f"acc1@{r}": a.top1 for r, a in results.items()}
                                | {f"loss@{r}": a.loss for r, a in results.items()})
            self.epoch, self.step = self.epoch + 1, 0
            self._save()
        self.report.close()

    def _batches(self):
        c = self.config
        per_process = -(-len(self.data.train_indices) // dist.world_size())
        return train_batches(
            self.data, train_transform(c.augment, max(c.resolution), self.data.info), batch_size=c.train_batch_size,
            seed=c.manual_seed, epoch=self.epoch, start_step=self.step, rank=dist.rank(),
            world_size=dist.world_size(), num_workers=c.num_workers,
            drop_last=per_process % c.train_batch_size == 1)  # batch norm has no variance of a single pixel

    def _train_epoch(self) -> None:
        batches = self._batches()
        steps = min(len(batches), DEBUG_BATCHES) if self.config.debug else len(batches)
        saved, sums = time.monotonic(), torch.zeros(3, device=self.device)
        self.model.train()
        with self.report.progress(self.epoch, self.config.num_epochs, steps, self.step) as bar:
            for images, labels in itertools.islice(batches, steps - self.step):
                lr = self.config.rate(self.epoch, self.step, steps)
                sums += self._train_step(images.to(self.device, non_blocking=True),
                                         labels.to(self.device, non_blocking=True), lr)
                self.step += 1
                bar.update()
                if self.step == steps or self.step % self.config.print_freq == 0:
                    self._log(sums, lr, steps)
                    sums = torch.zeros_like(sums)
                    due = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                    if dist.broadcast_object(due) and self.step < steps:
                        self._average_norms()
                        self._save()
                        saved = time.monotonic()

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        images = resize(images, self._resolution()).contiguous(memory_format=torch.channels_last)
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        dist.average_gradients(self.model.parameters())
        if self.config.grad_clip_value:
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.config.grad_clip_value)
        self.optimizer.step()
        right = (logits.detach().argmax(1) == labels).float().mean()
        return torch.stack((loss.detach(), right, torch.ones_like(right)))

    def _resolution(self) -> int:
        c = self.config  # the same on all processes, and after a resume
        rng = np.random.default_rng(np.random.SeedSequence(c.manual_seed, spawn_key=(self.epoch, self.step)))
        return int(rng.choice(c.resolution))

    def _average_norms(self) -> None:
        # Each process has seen its own images; the average is that of one process that saw all of them.
        if dist.world_size() > 1:
            for module in self.model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    for statistic in (module.running_mean, module.running_var):
                        dist.all_sum(statistic).div_(dist.world_size())

    def _log(self, sums: torch.Tensor, lr: float, steps: int) -> None:
        loss, right, count = dist.all_sum(sums.clone()).tolist()
        self._check_finite(loss)
        self.report.train(self.epoch, self.step, steps, loss / count, right / count, lr)

    def _check_finite(self, *values: float) -> None:
        if not all(map(math.isfinite, values)):
            raise UserError(f"training diverged in epoch {self.epoch}, batch {self.step}; the last checkpoint "
                            f"{str(self.path)!r} is kept, try a smaller --learning_rate")

    def _check_collapse(self, loss: float) -> None:
        """UserError where the validation loss has come back to that of guessing: quantisers may lose their scale."""
        self._check_finite(loss)
        guessing = math.log(self.model.num_classes)
        if loss > 0.9 * guessing and self.best_loss < 0.5 * guessing:
            raise UserError(f"training collapsed in epoch {self.epoch}: the validation loss is {loss:.2f}, that of "
                            f"guessing {guessing:.2f}, the best so far was {self.best_loss:.2f}; the last checkpoint "
                            f"{str(self.path)!r} is kept, try a smaller --learning_rate or a --grad_clip_value")
        self.best_loss = min(self.best_loss, loss)

    def _save(self) -> None:
        self._check_finite(*(float(p.detach().sum()) for p in self.model.parameters()))
        if dist.rank() == 0:
            # `epoch` is the last finished one, as in published files, and -1 in the first.
            save_checkpoint(self.path, {
                "epoch": self.epoch - 1, "step": self.step, "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(), "history": self.history,
                "best_loss": self.best_loss, "config": self.record.to_dict()})
            write_manifest(self.path, seed=self.config.manual_seed, epoch=self.epoch, step=self.step)
        dist.barrier()


def checkpoint_path(config: TeacherConfig, quant_mode: bool) -> Path:
    """The file that a run of this mode writes."""
    return Path(config.output_path) / ("lsq.pth" if quant_mode else "checkpoint.pth")


def _load_data(config: TeacherConfig, teacher: Teacher | None) -> Data:
    recorded = teacher.record.dataset if teacher else ""
    return load_data(config.dataset or recorded or None, config.dataset_path or None)


def _completed(config: TeacherConfig, record: TeacherRecord, data: Data) -> TeacherConfig:
    """The settings with what was left to the teacher's record or to the data set."""
    default = (64,) if data.info.name == "digits" else (224,)
    resolution = config.resolution or (record.resolutions if record.dataset else default)
    return dataclasses.replace(config, teacher_arch=record.arch, dataset=data.info.name, resolution=resolution)


def _evaluate(model: Teacher, data: Data, config: TeacherConfig) -> dict[int, Accuracy]:
    """Accuracy at each resolution; images are loaded at the largest and resized, as for students."""
    results = {}
    for resolution in config.resolution:
        batches = eval_batches(data.test, data.test_indices, eval_transform(max(config.resolution), data.info),
                               batch_size=config.eval_batch_size, rank=dist.rank(), world_size=dist.world_size(),
                               num_workers=config.num_workers)
        batches = itertools.islice(batches, DEBUG_BATCHES if config.debug else None)
        results[resolution] = evaluate(model, ((resize(images, resolution), labels) for images, labels in batches))
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
    data = _load_data(config, teacher)
    config = _completed(config, teacher.record, data)
    announce(data, config.resolution)
    data = follow_classes(data, teacher.record.classes, f"teacher {teacher.arch}", teacher.record.named)
    return _evaluate(teacher.to(device or torch.device("cpu")), data, config)
