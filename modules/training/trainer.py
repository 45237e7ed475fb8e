"""The training of a supernet: fp32, or LSQ+ from an fp32 checkpoint."""
from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import torch
import yaml

from modules.datasets.build import load_data
from modules.datasets.classes import check_enough_classes, check_same_classes
from modules.datasets.loading import train_batches
from modules.datasets.transforms import train_transform
from modules.modeling.codes import weight_bounds
from modules.modeling.ops.fake_quant import COMPILED, LOOPS, use_form
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import (
    ModelRecord,
    checkpoint_folder,
    load_model_weights,
    record_in,
    start_epsilon,
    start_normalization,
    weights_file,
)
from modules.modeling.supernet import HEAD, Supernet
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.calibration import calibrate_start
from modules.training.config import FREE_ON_RESUME, TrainConfig, in_present_form
from modules.training.ema import WeightAverage
from modules.training.evaluation import Accuracy
from modules.training.loop.epochs import Pace, Task, train_all
from modules.training.loop.report import Report, draw_curves, log_patterns
from modules.training.loop.trainee import Position, Trainee
from modules.training.optimizer import build_optimizer
from modules.training.precision import computes_bf16, measure_amp
from modules.training.recipe.answers import ANSWERS, open_teachers, teacher_answers
from modules.training.recipe.distillation import make_distiller
from modules.training.recipe.initialisation import initialise
from modules.training.sandwich import sandwich_step, step_generator, subnet_step, trained_parameters
from modules.training.schedule import resolution_limit, warmup_cosine_lr, warmup_linear_lr
from modules.training.validation import validate_subnets
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint, load_weights, weights_digest
from modules.utils.errors import UserError
from modules.utils.files import atomic_write
from modules.utils.notes import say
from modules.utils.runs import Run

_FEW_CLASSES = 10  # the loss at the start may be some units above that of guessing, whatever the classes


def _digest(checkpoint: dict) -> str:
    """That of the weights in a checkpoint; "" if it is of another form."""
    weights = checkpoint.get("state_dict")
    tensors = isinstance(weights, dict) and all(isinstance(name, str) and isinstance(value, torch.Tensor)
                                                for name, value in weights.items())
    return weights_digest(weights) if tensors else ""


class SupernetTrainer(Trainee, Task):
    """Trains the supernet of `space`.

    Args:
        config: settings; for int8 training those of `TrainConfig.for_quantization`.
        quant_mode: int8 training, from `checkpoint.pth` of the same folder.
        resume: continue this mode's own checkpoint, if there is one.
        overwrite: start afresh even if there is a checkpoint.
        device: of the training.
        option: of the script, for the folder of the files.
    """

    def __init__(self, config: TrainConfig, space: SupernetConfig, *, quant_mode: bool = False, resume: bool = False,
                 overwrite: bool = False, device: torch.device | None = None, option: str = "--models_save_dir"):
        self.config, self.space, self.quant_mode = config, space, quant_mode
        self.device = device or torch.device("cpu")
        self.folder = checkpoint_folder(config.models_save_dir, space, config.align_sample)
        self.title = "lsq" if quant_mode else "checkpoint"
        prefix = "lsq_" if quant_mode else ""
        files = Run(self.folder / f"{self.title}.pth", logs=log_patterns(prefix, "stdout.log", "valid_acc.log"),
                    files=(f"{self.title}.pth.bak", f"{self.title}_*.pth"), resume=resume, overwrite=overwrite,
                    option=option)
        super().__init__(files, Report(self.folder, prefix), batch_size=config.batch_size_per_gpu,
                         batch_option="batch_size_per_gpu", seed=config.seed,
                         remedy="a smaller base_lr or a longer warmup")
        self.best, self.history, self.answers = 0.0, [], None
        self._check_progressive_resolutions()

    def run(self) -> None:
        """Train to the last epoch."""
        with self.files:
            self.start()
            c = self.config
            train_all(self, [self], Pace(c.epochs, c.print_freq, c.checkpoint_minutes, c.debug_batches))
            self.report.close()

    def start(self) -> None:
        """Prepare the training, announce the images, and write the first state; `files` is open."""
        checkpoint = self._build()
        self.batches(self.position)  # refuses a batch size now, while an earlier run is there
        said: list[str] = []
        if self.teachers:  # asked before an earlier run goes: they may be refused
            kept = Path(self.config.teacher_answers_dir or self.folder) / ANSWERS
            self.answers = teacher_answers(kept, self.teachers, self.data, self.config, self.device, said.append)
            for line in said if dist.rank() == 0 else ():
                print(line, flush=True)
            self.teachers = []
            self.labels = torch.from_numpy(self.data.train.labels).to(self.device)
        self.begin(self.data, self.record.resolutions, checkpoint, "stdout.log")
        for line in said:
            self.report.write("stdout.log", line)
        if self.amp == "auto":
            self._choose_amp()
        self.save()
        dist.on_first(self._write_settings)

    def _check_progressive_resolutions(self) -> None:
        """UserError if one of them limits nothing."""
        c = self.config
        trained = (SubnetChoiceConfig.from_str(c.subnet_choice).resolution if c.subnet_choice
                   else max(c.resolutions or self.space.space.resolutions))
        if any(limit >= trained for limit in c.progressive_resolutions):
            raise UserError(f"--progressive_resolutions {' '.join(map(str, c.progressive_resolutions))}; allowed: "
                            f"below {trained} pixels, the largest resolution that is trained")

    def _build(self) -> dict:
        """Load the data, and make model and optimiser or read them from the checkpoint. Returns the checkpoint."""
        config = self.config
        self.data = load_data(config.dataset or None, config.dataset_path or None, config.valid_size,
                              config.crop_scale_min, config.eval_crop)
        self.check_agreed(dataclasses.asdict(config) | {"--quant_mode": self.quant_mode, "the space": str(self.space)},
                          len(self.data.train_indices))
        path, given = self._given()
        self._keep_epsilon(given)
        config = self.config
        if known := start_normalization(given):
            self.data = self.data.normalised(*known)
        self.record = self._make_record(self._held_out(path, given))
        torch.manual_seed(config.seed)
        self.model = self._make_model()
        if config.subnet_choice:
            self.model.set_active_subnet(config.subnet_choice)
        if config.only_train_head:
            self.model.requires_grad_(False).head.requires_grad_(True)
        self.distiller = make_distiller(config, self.record, self.data, self.model)
        self.teachers = open_teachers(config, self.record, self.data, self.device)
        self.optimizer = build_optimizer(self._trained, config, self.model)
        in_each_step = self.distiller.teacher if self.distiller else None
        self.teacher_digest = [teacher.digest for teacher in self.teachers or filter(None, [in_each_step])]
        checkpoint = self._resume(given) if self.files.continues else {}
        if not checkpoint:
            self._load_start(path, given)
        self._check_teacher(checkpoint)
        dist.broadcast_state(self._trained)
        self.average = self._make_average(checkpoint)
        self.amp = checkpoint.get("amp", config.amp)
        use_form(COMPILED if config.compile else LOOPS)
        return checkpoint

    @property
    def _trained(self) -> torch.nn.Module:
        """All trained modules: the model, and the projections for a teacher."""
        return torch.nn.ModuleList([self.model, self.distiller.projections]) if self.distiller else self.model

    def _held_out(self, path: Path | None, start: dict) -> int:
        """The images held out that no training has seen: fewer than `valid_size` if that of `start`, the content of
        `path`, held out fewer of the same data set."""
        size, info = self.config.valid_size, self.data.info
        record = record_in(start)
        if not record or record.dataset != info.name or set(info.classes).isdisjoint(record.classes):
            return size
        if record.valid_size < size and not self.files.continues:
            say(f"{str(path)!r} was trained on {size - record.valid_size} of the {size} images that --valid_size holds "
                f"out; accuracies on them are too high. Held out of both trainings: {record.valid_size}")
        return min(size, record.valid_size)

    def _make_record(self, held_out: int) -> ModelRecord:
        config, info = self.config, self.data.info
        check_enough_classes(info)
        classes = info.classes
        if config.n_classes:
            if config.n_classes < len(classes):
                raise UserError(f"n_classes is {config.n_classes}, but {info.name} has {len(classes)} classes; "
                                "allowed: that many or more, or 0")
            classes += tuple(f"unused{i}" for i in range(config.n_classes - len(classes)))
        quant = QuantMode(config.quant_weight_bits, zero_point=config.quant_zero_point, start=config.quant_start,
                          placement=config.placement) if self.quant_mode else None
        return ModelRecord(str(self.space), config.resolutions or self.space.space.resolutions, classes, info.name,
                           info.mean, info.std, held_out, quant, dataclasses.asdict(config))

    def _make_model(self) -> Supernet:
        model = Supernet(self.space, len(self.record.classes), self.record.resolutions)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum, module.eps = self.config.bn_momentum, self.config.bn_eps
                module.synchronized = self.config.sync_bn and dist.world_size() > 1
        if self.config.weight_init == "custom":
            initialise(model)
        if self.config.zero_last_gamma:
            model.zero_last_gamma()
        if self.record.quant:
            self.record.quant.apply(model)
        if self.config.channels_last:
            model.to(memory_format=torch.channels_last)
        return model.to(self.device)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _given(self) -> tuple[Path | None, dict]:
        """The file that the training starts from or continues, and its content; (None, {}) if there is none."""
        if not self.files.continues:
            path, given = self._start()
            self.start_digest = _digest(given)
            return path, given
        checkpoint = self.check_state(load_checkpoint(self.path, form={"best": float, "state_dict": dict}))
        self.start_digest = checkpoint.get("start_digest", "")  # older files have none
        self._check_start(checkpoint)
        return self.path, checkpoint

    def _start(self) -> tuple[Path | None, dict]:
        """The file of the weights that a new run begins with, and its content."""
        if self.config.init_checkpoint:
            path = weights_file(self.config.init_checkpoint, self.space)
            return path, load_checkpoint(path, "checkpoint of --init_checkpoint")
        if self.quant_mode:
            path = self.folder / "checkpoint.pth"
            return path, load_checkpoint(path, "fp32 checkpoint, where --quant_mode starts,")
        return None, {}

    def _check_start(self, checkpoint: dict) -> None:
        """UserError if a run that is continued began with other weights than the same file has now. Files of its own
        are written anew, but for the fp32 training's where int8 begins."""
        given, before = self.config.init_checkpoint, checkpoint.get("config", {}).get("training", {})
        path = Path(given) if given else self.folder / "checkpoint.pth" if self.quant_mode else None
        if self.start_digest and path and path.exists() and before.get("init_checkpoint", "") == given:
            path, start = self._start()
            own = given and path.resolve().parent == self.folder.resolve()
            if not own and _digest(start) != self.start_digest:
                raise UserError(f"{str(self.path)!r} was begun with other weights than those of {str(path)!r}; "
                                "--overwrite trains it anew")

    def _keep_epsilon(self, start: dict) -> None:
        """Weights come with the number that batch norm added to the variance when they were trained."""
        epsilon = start_epsilon(start) if start else None
        if epsilon is not None and epsilon != self.config.bn_eps:
            say(f"bn_eps {self.config.bn_eps:g} is {epsilon:g} here, that of the training of the weights")
            self.config = dataclasses.replace(self.config, bn_eps=epsilon)

    def _load_start(self, path: Path | None, checkpoint: dict) -> None:
        given = bool(self.config.init_checkpoint)  # int8 training goes on from its own checkpoint.pth otherwise
        if checkpoint:
            new_head = given and self.config.new_head
            if not new_head:
                self._check_classes(checkpoint, path)
            load_model_weights(self.model, checkpoint, path, keep=HEAD if new_head else None)
            self._take_over_bits(checkpoint)
            self._say_what_is_random(checkpoint, path)
        if given and self.config.calibration_path:
            calibrate_start(self.model, self.record, self.config)

    def _say_what_is_random(self, checkpoint: dict, path: Path | None) -> None:
        """A line if the weights are those of a subnet that was trained alone, and more or others are trained now."""
        record = record_in(checkpoint)
        only = record.only_subnet if record else None
        ours = self.model.get_active_subnet_config().stages if self.config.subnet_choice else None
        if only and only.stages != ours:
            say(f"{str(path)!r} has trained weights of {only} alone; other layers and widths start at random")

    def _take_over_bits(self, checkpoint: dict) -> None:
        """Widen or narrow the steps of weights that were trained with another number of bits, so that they keep their
        ranges."""
        record = record_in(checkpoint)
        before = record.quant if record else None
        if before and self.record.quant and before.nbits_w != self.record.quant.nbits_w:
            ratio = weight_bounds(before.nbits_w)[1] / weight_bounds(self.record.quant.nbits_w)[1]
            for module in self.model.modules():
                if hasattr(module, "weight_scale"):
                    module.weight_scale.data.mul_(ratio)

    def _check_classes(self, checkpoint: dict, path: str | Path) -> None:
        """UserError if `checkpoint` has other classes than the data set."""
        if (record := record_in(checkpoint)) and record.named:
            check_same_classes(record.classes, self.record.classes, str(path))

    def _resume(self, checkpoint: dict) -> dict:
        self._check_classes(checkpoint, self.path)
        before = in_present_form(checkpoint.get("config", {}).get("training", {}))
        self.go_on(checkpoint, before, dataclasses.asdict(self.config), FREE_ON_RESUME, checkpoint["epoch"])
        load_weights(self.model, {"state_dict": checkpoint.get("trained_state_dict", checkpoint["state_dict"])},
                     self.path)
        if self.distiller:
            with self.files.reading():
                self.distiller.projections.load_state_dict(checkpoint["projections"])
        self.load_optimizer(checkpoint)
        self.best, self.history = checkpoint["best"], checkpoint["history"]
        return checkpoint

    def _make_average(self, checkpoint: dict) -> WeightAverage | None:
        if not self.config.ema_decay:
            return None
        average = WeightAverage(self.model, self.config.ema_decay)
        if checkpoint:
            load_weights(average.model, checkpoint, self.path)
            with self.files.reading():
                average.updates = int(checkpoint["average_updates"])
        return average

    @property
    def kept_model(self) -> Supernet:
        """The model that is validated and kept: the average of the weights if there is one."""
        return self.average.model if self.average else self.model

    def state(self) -> dict:
        """The supernet's part of the checkpoint; the loop adds its own."""
        state = {"epoch": self.position.epoch, "state_dict": self.kept_model.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "best": self.best, "history": self.history,
                 "amp": self.amp, "start_digest": self.start_digest, "teacher_digest": self.teacher_digest,
                 "config": self.record.to_dict()}
        if self.average:
            state |= {"trained_state_dict": self.model.state_dict(), "average_updates": self.average.updates}
        if self.distiller:
            state["projections"] = self.distiller.projections.state_dict()
        return state

    def _check_teacher(self, checkpoint: dict) -> None:
        """UserError for a continued run with teachers of other weights; files of before do not tell theirs."""
        if checkpoint.get("teacher_digest", self.teacher_digest) != self.teacher_digest:
            raise UserError(f"--teacher {' '.join(self.config.teacher)}: its weights (--teacher_checkpoint) are not "
                            "those that this training began with; a continued run keeps its teacher")

    def _write_settings(self) -> None:
        with atomic_write(self.folder / f"{self.report.prefix}config.yaml") as file:
            yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(self.config))), file, sort_keys=False)

    def _choose_amp(self) -> None:
        if not all(dist.gather_objects(computes_bf16(self.device))):
            self.amp = "none"
            self.report.log("stdout.log", "amp auto: a device without kernels for bf16; training with amp none")
            return
        batch = self.prepare(*next(iter(self.batches(Position()))), Position())
        seconds = measure_amp(self.model, self._step, batch, self.config,
                              lambda: step_generator(self.config.seed, 0, 0))
        self.amp = dist.broadcast_object("bf16" if seconds["bf16"] < seconds["none"] else "none")
        self.report.log("stdout.log", f"amp auto: a step takes {seconds['none']:.3f} s in fp32, {seconds['bf16']:.3f} "
                                      f"s in bf16; training with amp {self.amp}")

    # -- training ---------------------------------------------------------------------------------------------------

    def _step(self, model: Supernet, batch: tuple, config: TrainConfig, rng: np.random.Generator) -> torch.Tensor:
        images, labels, answers = batch
        step = subnet_step if config.subnet_choice else sandwich_step
        return step(model, images, labels, config, rng, self.distiller, answers)

    def batches(self, start: Position):
        """The batches of an epoch from a step on."""
        c = self.config
        size = max(self.record.crop_size, self.distiller.resolution if self.distiller else 0)
        return train_batches(
            self.data, train_transform(c.augment, size, self.data.info, c.random_erasing, c.lighting,
                                       self.record.crop_size),
            batch_size=c.batch_size_per_gpu, seed=c.seed, epoch=start.epoch, start_step=start.step, rank=dist.rank(),
            world_size=dist.world_size(), num_workers=c.data_loader_workers_per_gpu, drop_last=c.drop_last,
            device=self.device, labels=None if self.answers is None else np.arange(len(self.data.train)))

    def prepare(self, images: torch.Tensor, labels: torch.Tensor, at: Position) -> tuple:
        """Images (N, 3, H, W), such as (64, 3, 224, 224), labels (N,), and the teacher's answers (N, K) or None, on the
        device. With answers of before, `labels` are the images' numbers."""
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.answers is None:
            return images, labels, None
        return images, self.labels[labels], self.answers[labels].float()

    def _iteration(self, steps: int) -> int:
        return self.position.epoch * steps + self.position.step

    def _scheduled(self, highest: float, steps: int) -> float:
        """A rate whose highest value is `highest`, at this step."""
        c, iteration = self.config, self._iteration(steps)
        base = {"base_lr": highest, "iterations": c.epochs * steps, "warmup_iterations": c.warmup_epochs * steps}
        if c.schedule == "linear":
            return warmup_linear_lr(iteration, **base)
        return warmup_cosine_lr(iteration, **base, clamp_lr_percent=c.clamp_lr_percent)

    def train_step(self, batch: tuple, steps: int) -> torch.Tensor:
        """One step of the sandwich rule, or of the one subnet; returns the values of `sandwich_step`."""
        c = self.config
        lr = self._scheduled(c.base_lr * self.images_per_step / 256, steps)
        turn = self._scheduled(c.muon_turn / math.sqrt(c.epochs * steps), steps)
        for group in self.optimizer.param_groups:
            group["lr"] = turn if group.get("turned") else lr
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        self.model.resolution_limit = resolution_limit(self._iteration(steps), iterations=c.epochs * steps,
                                                       limits=c.progressive_resolutions)
        rng = step_generator(c.seed, self.position.epoch, self.position.step)
        distil = c.inplace_distill and self._iteration(steps) >= c.label_epochs * steps
        step_config = dataclasses.replace(c, amp=self.amp, inplace_distill=distil)
        values = self._step(self.model, batch, step_config, rng)
        if c.grad_clip_value:
            torch.nn.utils.clip_grad_value_(trained_parameters(self.model, self.distiller), c.grad_clip_value)
        if c.grad_clip_norm:
            torch.nn.utils.clip_grad_norm_(trained_parameters(self.model, self.distiller), c.grad_clip_norm)
        self.optimizer.step()
        if self.average:
            self.average.update()
        return values

    def report_means(self, means: list[float], steps: int) -> None:
        """Log mean losses and accuracy; UserError if the largest subnet is far worse than guessing."""
        max_loss, min_loss, min_right = means
        if max_loss > 4 * math.log(max(len(self.record.classes), _FEW_CLASSES)):
            raise self.diverged(f"the largest subnet's loss is {max_loss:.3g}")
        (epoch, step), lr = dataclasses.astuple(self.position), self.optimizer.param_groups[0]["lr"]
        self.report.log("stdout.log", f"epoch {epoch} | step {step}/{steps} | max loss {max_loss:.4f} | min loss "
                                      f"{min_loss:.4f} | min acc1 {100 * min_right:.2f} | lr {lr:.6f}")
        self.report.scalars("train", {"loss/max": max_loss, "loss/min": min_loss, "acc1/min": 100 * min_right,
                                      "lr": lr}, epoch * steps + step)

    def end_epoch(self, trainees) -> None:
        """Validate if it is due, and save."""
        epoch, copies = self.position.epoch, []
        due = epoch % self.config.valid_freq == 0 or epoch == self.config.epochs
        if due and self._validate():
            copies.append(f"{self.title}_best.pth")
        copies += [f"{self.title}.pth.bak"] * (epoch % 10 == 0)
        copies += [f"{self.title}_{epoch}.pth"] * (epoch % 50 == 0)
        self.save(*(self.folder / name for name in copies))

    # -- validation -------------------------------------------------------------------------------------------------

    def _validate(self) -> bool:
        """Whether the first of the validated subnets is the best so far."""
        results = validate_subnets(self.kept_model, self.data, self.record, self.config, self.position.epoch)
        self._report_validation(results)
        top1 = next(iter(results.values())).top1
        better = top1 > self.best
        self.best = max(self.best, top1)
        return better

    def _report_validation(self, results: dict[str, Accuracy]) -> None:
        epoch = self.position.epoch
        self.history.append({"epoch": epoch, **{name: accuracy.top1 for name, accuracy in results.items()}})
        line = f"acc1 epoch {epoch} | " + " | ".join(f"{name}_net_acc1 {a.top1:.4f}" for name, a in results.items())
        self.report.log("stdout.log", line)
        self.report.append("valid_acc.log", line)
        for name, accuracy in results.items():
            self.report.scalars("valid", {f"acc1/{name}": accuracy.top1, f"loss/{name}": accuracy.loss}, epoch)
        dist.on_first(lambda: draw_curves(self.history, self.folder / f"{self.report.prefix}curves.png",
                                          f"{self.folder.name} ({self.title})"))


def train(config: TrainConfig, space: SupernetConfig, **kwargs) -> Path:
    """Train a supernet (arguments as of `SupernetTrainer`); returns its folder."""
    trainer = SupernetTrainer(config, space, **kwargs)
    trainer.run()
    return trainer.folder
