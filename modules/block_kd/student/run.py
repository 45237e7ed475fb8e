"""One block student in training: its weights, optimiser, progress, files and log."""
from __future__ import annotations

import dataclasses
import math
from datetime import datetime

import numpy as np
import torch

from modules.block_kd.student.config import FREE_ON_RESUME, BlockKDConfig
from modules.block_kd.student.evaluation import LOSSES
from modules.block_kd.student.features import TeacherFeatures
from modules.block_kd.student.files import StudentRecord, build_student, read_student, student_path
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.student.space import StageChoice
from modules.search_space.superspace import get_superspace
from modules.training.optimizer import decay_groups
from modules.utils import dist
from modules.utils.checkpoint import check_not_written, check_same_settings, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import atomic_write, write_manifest

CONFIGURATIONS = ("max", "min", "random", "random2")  # of a step, in this order


class StudentRun:
    """Trains one student.

    Args:
        record: what the student is.
        teacher: its teacher.
        resume: continue the file there is, if there is one.
        overwrite: start afresh where there is a file already.
        test_only: the file must be there; its settings need not be those of `config`.

    An int8 student starts from the fp32 one beside it.
    """

    def __init__(self, config: BlockKDConfig, record: StudentRecord, teacher, device: torch.device, *,
                 resume: bool = False, overwrite: bool = False, test_only: bool = False):
        self.config, self.record, self.device = config, record, device
        self.path = student_path(config.output_path, record.name, record.quant is not None)
        self.prefix = "lsq_" if record.quant else ""
        self.epoch = self.step = 0
        self.history: list[list[float]] = []
        self._writer = None
        position = [s.name for s in get_superspace(config.superspace).searched].index(record.stage)
        self.key = (position, record.block)  # of its random draws: they do not depend on who else is in training
        self._sums, self._count = torch.zeros(4, device=device), 0
        check_not_written(self.path, resume or test_only, overwrite, "--output_path")
        torch.manual_seed(int(np.random.SeedSequence(config.manual_seed, spawn_key=self.key).generate_state(1)[0]))
        checkpoint = None
        if test_only or (resume and self.path.exists()):
            self.student, checkpoint = self._read(teacher)
            if not test_only:
                self._check_settings(checkpoint)
        else:
            self.student = build_student(record, teacher)
            if record.quant:
                self._load_fp32(teacher)
        self.student.to(device)
        dist.broadcast_state(self.student)
        self.optimizer = self._make_optimizer()
        if checkpoint:
            self.epoch, self.step = checkpoint["epoch"] + 1, checkpoint.get("step", 0)
            self.history = checkpoint.get("history", [])
            if not test_only:
                self.optimizer.load_state_dict(checkpoint["optimizer"])
        elif dist.rank() == 0:
            for name in ("train.log", "eval.log"):  # of a run that is replaced
                self.path.with_name(self.prefix + name).unlink(missing_ok=True)

    def _read(self, teacher) -> tuple[StagePlusProj, dict]:
        r = self.record
        student, _, checkpoint = read_student(self.path, r.superspace, r.stage, r.block, teacher, r.quant is not None)
        return student, checkpoint

    def _load_fp32(self, teacher) -> None:
        r, path = self.record, student_path(self.config.output_path, self.record.name, int8=False)
        fp32, _, _ = read_student(path, r.superspace, r.stage, r.block, teacher, False,
                                  "fp32 block student, where int8 training starts,")
        self.student.load_state_dict(fp32.state_dict())

    def _check_settings(self, checkpoint: dict) -> None:
        if not (checkpoint.get("config") or {}).get("training"):
            raise UserError(f"{str(self.path)!r} is a published file; its training cannot be continued")
        check_same_settings(checkpoint["config"]["training"], _settings(self.config), FREE_ON_RESUME, self.path)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        c, groups = self.config, decay_groups(self.student, self.config.weight_decay)
        if c.optimizer == "adam":
            return torch.optim.Adam(groups, lr=1.0)
        return torch.optim.SGD(groups, lr=1.0, momentum=c.momentum, nesterov=c.optimizer == "sgd_nesterov")

    def due(self, epoch: int, step: int) -> bool:
        """Whether this student has still to make batch `step` of `epoch`."""
        return (self.epoch, self.step) <= (epoch, step)

    # -- training ---------------------------------------------------------------------------------------------------

    def start_quantizers(self, features: torch.Tensor) -> None:
        """Take start values of all quantisers from one batch, the largest configuration's where that uses a layer.

        Projected shortcuts between blocks of equal width are unused there, so a second configuration, whose widths
        alternate, follows. A quantiser left unstarted would take its range from whatever is evaluated first.
        """
        space = self.student.space
        largest = space.extreme(max)
        widths = (min(space.options.widths), max(space.options.widths))
        alternating = tuple(dataclasses.replace(b, width=widths[i % 2]) for i, b in enumerate(largest.blocks))
        self.student.eval()
        with torch.no_grad():
            for choice in (largest, StageChoice(largest.cin, alternating)):
                self.student.set_active(choice)
                self.student(features)

    def train_step(self, features: TeacherFeatures, resolutions: list[int], lr: float) -> None:
        """One step: the largest, the smallest and two random configurations, each at its resolution (pixels); the
        gradients are added up, clipped by value and averaged over processes."""
        config, space = self.config, self.student.space
        rng = np.random.default_rng(np.random.SeedSequence(config.manual_seed,
                                                           spawn_key=(self.epoch, self.step, *self.key)))
        choices = [space.extreme(max), space.extreme(min), space.sample(rng), space.sample(rng)]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self.student.train()
        for i, (choice, resolution) in enumerate(zip(choices, resolutions, strict=True)):
            x, target = features.at(resolution)
            if i and not config.inplace_distill_from_teacher:
                self.student.set_active(choices[0])
                with torch.no_grad():
                    target = self.student(x)
            self.student.set_active(choice)
            loss = LOSSES[config.loss_fn](self.student(x), target)
            loss.backward()
            self._sums[i] += loss.detach()
        parameters = list(self.student.parameters())
        dist.average_gradients(parameters)
        if config.grad_clip_value:
            torch.nn.utils.clip_grad_value_(parameters, config.grad_clip_value)
        self.optimizer.step()
        self._count, self.step = self._count + 1, self.step + 1

    def log_training(self, epoch: int, step: int, steps: int, lr: float) -> None:
        """Write the mean losses since the last call; UserError if they are not finite."""
        if not self._count:
            return
        losses = (dist.all_sum(self._sums / self._count) / dist.world_size()).tolist()
        self._sums, self._count = torch.zeros_like(self._sums), 0
        if not all(math.isfinite(value) for value in losses):
            raise UserError(f"training of {self.record.name} diverged in epoch {epoch}, batch {step}: losses {losses}; "
                            f"the last checkpoint in {str(self.path.parent)!r} is kept, try a smaller "
                            "--learning_rate_list")
        shown = ", ".join(f"{value:.4f}" for value in losses)
        self.scalars("train", dict(zip(CONFIGURATIONS, losses, strict=True)) | {"lr": lr}, epoch * steps + step)
        self.log("train.log", f"epoch {epoch} | batch {step}/{steps} | losses [{shown}] | lr {lr:.6f}")

    def add_evaluation(self, losses: list[float]) -> None:
        """Keep and log the losses of the largest, the smallest and a random configuration after an epoch."""
        self.history.append(losses)
        self.scalars("valid", dict(zip(CONFIGURATIONS, losses, strict=False)), self.epoch)
        self.log_evaluation(losses)

    def log_evaluation(self, losses: list[float]) -> None:
        """Log such losses."""
        self.log("eval.log", f"epoch {self.epoch - 1} | eval losses (max min random): "
                             + ",".join(f"{value:.4f}" for value in losses))

    # -- files ------------------------------------------------------------------------------------------------------

    def log(self, name: str, line: str) -> None:
        """A line with the time, in the student's log file `name` and on the terminal."""
        if dist.rank() == 0:
            print(f"{self.record.name}: {self.write(name, line)}", flush=True)

    def write(self, name: str, line: str) -> str:
        """Write a line into the log file `name` alone; return it as it stands there, with the time before it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} | {line}"
        with open(self.path.with_name(self.prefix + name), "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Write to the student's TensorBoard events."""
        if dist.rank() == 0:
            from torch.utils.tensorboard import SummaryWriter

            if self._writer is None:
                self._writer = SummaryWriter(str(self.path.with_name(f"{self.prefix}tensorboard")))
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()

    def close(self) -> None:
        """Close what is open; no more scalars follow."""
        if self._writer:
            self._writer.close()

    def save(self, *, copy: bool = False) -> None:
        """Write the checkpoint; with `copy` also `model_<epoch>.pth`. `epoch` is that of the last finished epoch."""
        if dist.rank() == 0:
            state = {"epoch": self.epoch - 1, "step": self.step, "model": self.student.state_dict(),
                     "optimizer": self.optimizer.state_dict(),
                     "lr_schduler": {"lr_step_size": self.config.lr_step_size},  # [sic] the published key
                     "history": self.history, "config": self.record.to_dict() | {"training": _settings(self.config)}}
            save_checkpoint(self.path, state)
            if copy:
                save_checkpoint(self.path.with_name(f"{self.prefix}model_{self.epoch - 1}.pth"), state)
            write_manifest(self.path, seed=self.config.manual_seed, epoch=self.epoch, step=self.step)
            with atomic_write(self.path.with_name("net.txt")) as file:
                file.write(f"{self.student}\n")
        dist.barrier()


def _settings(config: BlockKDConfig) -> dict:
    """The settings as a checkpoint keeps them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
