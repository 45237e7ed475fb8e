"""Settings of block distillation, fp32 and int8, and their command line options."""
from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass

from modules.block_kd.student.space import check_output_sizes, stage_list
from modules.datasets.transforms import AUGMENTS
from modules.modeling.placement import PLACEMENTS
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError, check_choice

DEBUG_BATCHES = 4
LOSS_FUNCTIONS = ("nsr", "mse")
OPTIMIZERS = ("adam", "sgd", "sgd_nesterov")
# Settings that a resumed run may change: no other may, for they decide what a step computes.
FREE_ON_RESUME = {"output_path", "dataset_path", "eval_batch_size", "num_workers", "stage_list", "print_freq",
                  "checkpoint_minutes"}


@dataclass(frozen=True)
class BlockKDConfig:
    """What decides a run of train_block_kd.py or lsq_block_kd.py; names and meaning as of their options."""

    superspace: str
    output_path: str
    num_epochs: int
    learning_rate_list: tuple[float, ...]
    dataset: str = ""
    dataset_path: str = ""
    valid_size: int = 50000
    augment: str = "default"
    train_batch_size: int = 64
    eval_batch_size: int = 100
    num_workers: int = 16
    hw_list: tuple[int, ...] = ()
    stage_list: tuple[str, ...] = ()
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr_scheduler: str = "cosine"
    lr_step_size: int = 20
    lr_gamma: float = 0.9
    grad_clip_value: float = 1.0
    loss_fn: str = "nsr"
    inplace_distill_from_teacher: bool = False
    num_calib_batches: int = 20
    placement: str = "lsq"
    manual_seed: int = 0
    debug: bool = False
    print_freq: int = 20
    checkpoint_minutes: float = 15.0

    def __post_init__(self):
        space = get_superspace(self.superspace)
        for name, allowed in (("optimizer", OPTIMIZERS), ("lr_scheduler", ("cosine", "step")),
                              ("loss_fn", LOSS_FUNCTIONS), ("augment", AUGMENTS), ("placement", PLACEMENTS)):
            check_choice(getattr(self, name), allowed, f"value of --{name}")
        for name in ("num_epochs", "train_batch_size", "eval_batch_size", "lr_step_size", "num_calib_batches",
                     "valid_size", "print_freq"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}; allowed: 1 or more")
        if len(self.learning_rate_list) != len(space.searched):
            raise UserError(f"--learning_rate_list has {len(self.learning_rate_list)} values; {self.superspace} needs "
                            f"{len(space.searched)}, one for each of {', '.join(s.name for s in space.searched)}")
        check_output_sizes(space, self.stages, self.resolutions, self.loss_fn)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Input resolutions in pixels."""
        return self.hw_list or get_superspace(self.superspace).block_kd_resolutions

    @property
    def stages(self) -> dict[str, list[int]]:
        """Block choices to train, per stage."""
        return stage_list(self.superspace, list(self.stage_list))

    def learning_rate(self, stage: str, epoch: int, step: int, steps: int) -> float:
        """Rate at batch `step` (from 0) of `epoch`, `steps` batches an epoch.

        Cosine: a scheduler with T_max = floor(steps epochs / lr_step_size) advances after every batch whose index in
        the epoch is a positive multiple of `lr_step_size`. Step: times `lr_gamma` every `lr_step_size` epochs.
        """
        base = self.learning_rate_list[[s.name for s in get_superspace(self.superspace).searched].index(stage)]
        every = self.lr_step_size
        if self.lr_scheduler == "step":
            return base * self.lr_gamma ** (epoch // every)
        advanced = epoch * ((steps - 1) // every) + max(step - 1, 0) // every
        return base * 0.5 * (1 + math.cos(math.pi * advanced / max(steps * self.num_epochs // every, 1)))


def add_arguments(parser: argparse.ArgumentParser, int8: bool, **defaults) -> None:
    """The options of train_block_kd.py, or with `int8` of lsq_block_kd.py; `defaults` replaces those of
    `BlockKDConfig`."""
    defaults = {f.name: f.default for f in dataclasses.fields(BlockKDConfig)} | defaults

    def add(name: str, text: str, **kwargs) -> None:
        default = defaults[name]
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action="store_true", help=text)
            return
        kwargs.setdefault("type", type(default))
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        parser.add_argument(f"--{name}", default=default, help=f"{text} (default: {shown or 'see text'})", **kwargs)

    parser.add_argument("--superspace", required=True, help="such as onnxw, mobilew, onnxw_tiny")
    add("output_path", "folder of the students, <output_path>/<stage>_<block>/")
    add("dataset", "digits, folder, CIFAR10 ...; empty: folder if --dataset_path is given, else digits")
    add("dataset_path", "folder with train/ and val/, or the ILSVRC tar files")
    add("valid_size", "images held out of the training set to evaluate students on")
    add("augment", "default or auto_augment_tf")
    add("train_batch_size", "images per batch and process")
    add("eval_batch_size", "images per batch and process in evaluation")
    add("num_workers", "image loading processes")
    add("num_epochs", "epochs")
    add("learning_rate_list", "one rate for each searched stage", nargs="+", type=float, metavar="LR")
    add("lr_scheduler", "cosine or step")
    add("lr_step_size", "batches between steps of the cosine; epochs between those of step")
    add("lr_gamma", "factor of step")
    add("optimizer", "adam, sgd or sgd_nesterov")
    add("momentum", "of sgd")
    add("weight_decay", "of convolution and linear weights")
    add("grad_clip_value", "gradients are clipped to this size; 0: not")
    add("stage_list", "students to train, such as stage1_0 stage1_2; empty: all", nargs="*", type=str, metavar="NAME")
    add("hw_list", "resolutions; empty: the superspace's for block tables", nargs="+", type=int, metavar="PIXELS")
    add("loss_fn", "nsr (noise-to-signal ratio) or mse")
    add("inplace_distill_from_teacher", "all four configurations of a step learn from the teacher; otherwise the last "
                                        "three learn from the largest")
    add("num_calib_batches", "training batches that calibrate batch norm before an evaluation")
    if int8:
        add("placement", "lsq: layers own the quantiser of their input; engine: who produces a tensor does")
    add("manual_seed", "of every random draw")
    add("print_freq", "batches between log lines")
    add("checkpoint_minutes", "least minutes between checkpoints within an epoch, which follow a log line")
    add("debug", f"{DEBUG_BATCHES} training and evaluation batches, one epoch")
    parser.add_argument("--test_only", action="store_true", help="only evaluate the students there are")
    parser.add_argument("--resume", action="store_true", help="continue at the student, epoch and step reached")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where there are students already")


def config_from_arguments(args: argparse.Namespace) -> BlockKDConfig:
    """The settings given; UserError for one that cannot work."""
    values = {f.name: getattr(args, f.name, f.default) for f in dataclasses.fields(BlockKDConfig)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if values["debug"]:
        values["num_epochs"] = 1
    return BlockKDConfig(**values)
