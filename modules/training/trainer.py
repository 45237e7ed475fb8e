"""The training loop of a supernet: fp32, or LSQ+ from an fp32 checkpoint."""
from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from pathlib import Path

import torch
import yaml

from modules.datasets.announce import announce
from modules.datasets.build import load_data
from modules.datasets.classes import check_enough_classes, check_same_classes
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.modeling.ops.fake_quant import use_compiled
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord, checkpoint_folder
from modules.modeling.supernet import HEAD, Supernet
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.calibration import calibrate_start, load_calibration_images
from modules.training.config import FREE_ON_RESUME, TrainConfig
from modules.training.ema import WeightAverage
from modules.training.evaluation import evaluate, extract_calibrated
from modules.training.optimizer import build_optimizer
from modules.training.precision import measure_amp
from modules.training.report import TrainingReport
from modules.training.sandwich import sandwich_step, step_generator, subnet_step
from modules.training.schedule import warmup_cosine_lr, warmup_linear_lr
from modules.utils import dist
from modules.utils.checkpoint import (
    check_not_written,
    check_same_settings,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from modules.utils.errors import UserError
from modules.utils.files import atomic_write, write_manifest

_VALIDATION_STREAM = 2**20  # epoch number no training reaches: its draws are the validated random subnet's


class SupernetTrainer:
    """Trains the supernet of `space`.

    Args:
        config: settings; for int8 training those of `TrainConfig.for_quantization`.
        quant_mode: int8 training, from `checkpoint.pth` of the same folder.
        resume: continue this mode's own checkpoint.
        overwrite: start afresh where there is a checkpoint already.
        device: where to train.
    """

    def __init__(self, config: TrainConfig, space: SupernetConfig, *, quant_mode: bool = False, resume: bool = False,
                 overwrite: bool = False, device: torch.device | None = None):
        self.config, self.quant_mode, self.device = config, quant_mode, device or torch.device("cpu")
        self.folder = checkpoint_folder(config.models_save_dir, space, config.align_sample)
        self.name = "lsq" if quant_mode else "checkpoint"
        self._check_files(resume, overwrite)
        self.data = load_data(config.dataset or None, config.dataset_path or None, config.valid_size,
                              config.crop_scale_min, config.eval_crop)
        self.record = self._make_record(space)
        torch.manual_seed(config.seed)
        self.model = self._make_model(space)
        if config.subnet_choice:
            self.model.set_active_subnet(config.subnet_choice)
        if config.only_train_head:
            self.model.requires_grad_(False).head.requires_grad_(True)
        self.optimizer = build_optimizer(self.model, config)
        self.epoch = self.step = 0
        self.best, self.history = 0.0, []
        checkpoint = self._resume() if resume else None
        if not resume:
            self._load_start()
        dist.broadcast_state(self.model)
        self.average = self._make_average(checkpoint)
        self.amp = checkpoint.get("amp", config.amp) if checkpoint else config.amp
        use_compiled(config.compile)
        self.report = TrainingReport(self.folder, self.name, self.history)
        announce(self.data, self.record.resolutions, None if resume else self.report.write)

    def _check_files(self, resume: bool, overwrite: bool) -> None:
        path = self.folder / f"{self.name}.pth"
        if resume and not path.is_file():
            raise UserError(f"no checkpoint {str(path)!r} to resume from; start without --resume")
        check_not_written(path, resume, overwrite, "--models_save_dir")

    def _make_record(self, space: SupernetConfig) -> ModelRecord:
        config, info = self.config, self.data.info
        check_enough_classes(info)
        classes = info.classes
        if config.n_classes:
            if config.n_classes < len(classes):
                raise UserError(f"n_classes is {config.n_classes}, but {info.name} has {len(classes)} classes; "
                                "allowed: that many or more, or 0")
            classes += tuple(f"unused{i}" for i in range(config.n_classes - len(classes)))
        quant = QuantMode(zero_point=config.quant_zero_point, start=config.quant_start,
                          placement=config.placement) if self.quant_mode else None
        return ModelRecord(str(space), config.resolutions or space.space.resolutions, classes, info.name, info.mean,
                           info.std, config.valid_size, quant, dataclasses.asdict(config))

    def _make_model(self, space: SupernetConfig) -> Supernet:
        model = Supernet(space, len(self.record.classes), self.record.resolutions)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum, module.eps = self.config.bn_momentum, self.config.bn_eps
                module.synchronized = self.config.sync_bn and dist.world_size() > 1
        if self.config.zero_last_gamma:
            model.zero_last_gamma()
        if self.record.quant:
            self.record.quant.apply(model)
        if self.config.channels_last:
            model.to(memory_format=torch.channels_last)
        return model.to(self.device)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _load_start(self) -> None:
        path, what = self.config.init_checkpoint, "checkpoint of --init_checkpoint"
        if self.quant_mode and not path:
            path, what = self.folder / "checkpoint.pth", "fp32 checkpoint, where --quant_mode starts,"
        if path:
            checkpoint = load_checkpoint(path, what)
            if not self.config.new_head:
                self._check_classes(checkpoint, path)
            load_weights(self.model, checkpoint, path, keep=HEAD if self.config.new_head else None)
        if self.config.calibration_path:
            calibrate_start(self.model, self.record, self.config)

    def _check_classes(self, checkpoint: dict, path: str | Path) -> None:
        """UserError if `checkpoint` says other classes than the data set's."""
        if "config" in checkpoint and (record := ModelRecord.from_dict(checkpoint["config"])).named:
            check_same_classes(record.classes, self.record.classes, str(path))

    def _resume(self) -> dict:
        path = self.folder / f"{self.name}.pth"
        checkpoint = load_checkpoint(path)
        self._check_classes(checkpoint, path)
        before = checkpoint.get("config", {}).get("training", {})
        check_same_settings(before, dataclasses.asdict(self.config), FREE_ON_RESUME, path)
        trained = checkpoint.get("trained_state_dict", checkpoint["state_dict"])
        load_weights(self.model, {"state_dict": trained}, path)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        self.best, self.history = checkpoint["best"], checkpoint["history"]
        return checkpoint

    def _make_average(self, checkpoint: dict | None) -> WeightAverage | None:
        if not self.config.ema_decay:
            return None
        average = WeightAverage(self.model, self.config.ema_decay)
        if checkpoint:
            load_weights(average.model, checkpoint, self.folder / f"{self.name}.pth")
            average.updates = checkpoint["average_updates"]
        return average

    @property
    def kept_model(self) -> Supernet:
        """The model that is validated and kept: the average of the weights if there is one."""
        return self.average.model if self.average else self.model

    def _save(self, *names: str) -> None:
        if dist.rank() == 0:
            state = {"epoch": self.epoch, "step": self.step, "state_dict": self.kept_model.state_dict(),
                     "optimizer": self.optimizer.state_dict(), "best": self.best, "history": self.history,
                     "amp": self.amp, "config": self.record.to_dict()}
            if self.average:
                state |= {"trained_state_dict": self.model.state_dict(), "average_updates": self.average.updates}
            for name in names:
                save_checkpoint(self.folder / name, state)
            write_manifest(self.folder / f"{self.name}.pth", seed=self.config.seed, epoch=self.epoch, step=self.step)
        dist.barrier()

    # -- training ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last epoch."""
        self._save(f"{self.name}.pth")
        if dist.rank() == 0:
            with atomic_write(self.folder / f"{self.report.prefix}config.yaml") as file:
                yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(self.config))), file, sort_keys=False)
        if self.amp == "auto":
            self._choose_amp()
        while self.epoch < self.config.epochs:
            self._train_epoch()
            self.epoch, self.step = self.epoch + 1, 0
            names = [f"{self.name}.pth"]
            due = self.epoch % self.config.valid_freq == 0 or self.epoch == self.config.epochs
            if due and self._validate():
                names.append(f"{self.name}_best.pth")
            names += [f"{self.name}.pth.bak"] * (self.epoch % 10 == 0)
            names += [f"{self.name}_{self.epoch}.pth"] * (self.epoch % 50 == 0)
            self._save(*names)
        self.report.close()

    def _choose_amp(self) -> None:
        images, labels = self._on_device(*next(iter(self._epoch_batches())))
        seconds = measure_amp(self.model, self._step_function, images, labels, self.config,
                              lambda: step_generator(self.config.seed, 0, 0))
        self.amp = dist.broadcast_object("bf16" if seconds["bf16"] < seconds["none"] else "none")
        self.report.log(f"amp auto: a step takes {seconds['none']:.3f} s in fp32, {seconds['bf16']:.3f} s in bf16; "
                        f"training with amp {self.amp}")

    def _on_device(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels

    @property
    def _step_function(self):
        return subnet_step if self.config.subnet_choice else sandwich_step

    def _epoch_batches(self):
        c = self.config
        return train_batches(
            self.data, train_transform(c.augment, self.record.crop_size, self.data.info),
            batch_size=c.batch_size_per_gpu, seed=c.seed, epoch=self.epoch, start_step=self.step, rank=dist.rank(),
            world_size=dist.world_size(), num_workers=c.data_loader_workers_per_gpu, drop_last=c.drop_last,
            device=self.device)

    def _learning_rate(self, steps: int) -> float:
        c = self.config
        iteration = self.epoch * steps + self.step
        base = {"base_lr": c.base_lr * c.batch_size_per_gpu * dist.world_size() / 256,
                "iterations": c.epochs * steps, "warmup_iterations": c.warmup_epochs * steps}
        if c.schedule == "linear":
            return warmup_linear_lr(iteration, **base)
        return warmup_cosine_lr(iteration, **base, clamp_lr_percent=c.clamp_lr_percent)

    def _train_epoch(self) -> None:
        batches = self._epoch_batches()
        steps = min(len(batches), self.config.debug_batches or len(batches))
        saved, sums, count = time.monotonic(), torch.zeros(3, device=self.device), 0
        self.model.train()
        with self.report.progress(self.epoch, self.config.epochs, steps, self.step) as bar:
            for images, labels in batches:
                lr = self._learning_rate(steps)
                sums += self._train_step(images, labels, lr)
                self.step, count = self.step + 1, count + 1
                bar.update()
                last = self.step == steps
                if last or self.step % self.config.print_freq == 0:
                    self._log(sums / count, lr, steps)
                    sums, count = torch.zeros_like(sums), 0
                    # One process decides, for clocks differ and all have to save together.
                    due = dist.broadcast_object(time.monotonic() - saved > 60 * self.config.checkpoint_minutes)
                    if due and not last:
                        self._save(f"{self.name}.pth")
                        saved = time.monotonic()
                if last:
                    break

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        images, labels = self._on_device(images, labels)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        rng = step_generator(self.config.seed, self.epoch, self.step)
        values = self._step_function(self.model, images, labels, dataclasses.replace(self.config, amp=self.amp), rng)
        if self.config.grad_clip_value:
            torch.nn.utils.clip_grad_value_(self.model.parameters(), self.config.grad_clip_value)
        if self.config.grad_clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip_norm)
        self.optimizer.step()
        if self.average:
            self.average.update()
        return values

    def _log(self, means: torch.Tensor, lr: float, steps: int) -> None:
        means = (dist.all_sum(means) / dist.world_size()).tolist()
        worst = 4 * math.log(max(len(self.record.classes), 2))
        if not all(math.isfinite(m) for m in means) or means[0] > worst:
            raise UserError(f"training diverged in epoch {self.epoch}, step {self.step}: the largest subnet's loss is "
                            f"{means[0]:.3g}; the last checkpoint in {str(self.folder)!r} is kept, try a smaller "
                            "base_lr or a longer warmup")
        self.report.train(self.epoch, self.step, steps, *means, lr)

    # -- validation -------------------------------------------------------------------------------------------------

    def _validate(self) -> bool:
        """Evaluate largest, smallest and one random subnet, or the only one in training; returns whether the first of
        them is the best so far."""
        d, c = self.data, self.config
        calibration = load_calibration_images(
            d, train_transform(c.augment, self.record.crop_size, d.info), c.post_bn_calibration_batch_num,
            batch_size=c.batch_size_per_gpu, seed=c.seed)
        space = self.model.subnets
        chosen = {"max": space.extreme(max), "min": space.extreme(min),
                  "random": space.sample(step_generator(c.seed, _VALIDATION_STREAM, self.epoch))}
        if c.subnet_choice:
            chosen = {"subnet": SubnetChoiceConfig.from_str(c.subnet_choice)}
        results = {}
        for name, choice in chosen.items():
            batches = eval_batches(d.valid, d.valid_indices, eval_transform(self.record.crop_size, d.info),
                                   batch_size=c.eval_batch_size_per_gpu, rank=dist.rank(),
                                   world_size=dist.world_size(), num_workers=c.data_loader_workers_per_gpu)
            if c.valid_batches:
                batches = itertools.islice(batches, c.valid_batches)
            results[name] = evaluate(extract_calibrated(self.kept_model, choice, calibration), batches)
        self.report.validation(self.epoch, results)
        top1 = next(iter(results.values())).top1
        better = top1 > self.best
        self.best = max(self.best, top1)
        return better


def train(config: TrainConfig, space: SupernetConfig, **kwargs) -> Path:
    """Train a supernet (arguments as of `SupernetTrainer`); returns its folder."""
    trainer = SupernetTrainer(config, space, **kwargs)
    trainer.run()
    return trainer.folder
