"""Settings of teacher training, fp32 and int8, and their command line options."""
from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass

from modules.datasets.transforms import AUGMENTS
from modules.utils.errors import UserError, check_choice

OPTIMIZERS = ("sgd", "sgd_nesterov", "adam")
DEFAULT_OUTPUT = "checkpoints/block_kd/teacher_checkpoint"
DEBUG_BATCHES = 4
# Settings that a resumed run may change: no other may, for they decide what a step computes.
FREE_ON_RESUME = {"output_path", "dataset_path", "eval_batch_size", "num_workers", "print_freq", "checkpoint_minutes"}


@dataclass(frozen=True)
class TeacherConfig:
    """What decides a run; names and meaning as of the options.

    The defaults are those of int8 fine-tuning, as published; `FP32_DEFAULTS` replaces some for training in fp32, of
    which nothing is published.
    """

    output_path: str = DEFAULT_OUTPUT
    teacher_arch: str = ""
    teacher_weights: str = ""
    dataset: str = ""
    dataset_path: str = ""
    augment: str = "default"
    resolution: tuple[int, ...] = ()
    num_epochs: int = 1
    train_batch_size: int = 12
    eval_batch_size: int = 100
    num_workers: int = 16
    optimizer: str = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr_scheduler: str = "cosine"
    lr_step_size: int = 1
    lr_gamma: float = 0.9
    grad_clip_value: float = 0.0
    bn_momentum: float = 0.01
    quant_zero_point: str = "integer"
    manual_seed: int = 0
    print_freq: int = 50
    checkpoint_minutes: float = 15.0
    debug: bool = False

    def __post_init__(self):
        for name, allowed in (("optimizer", OPTIMIZERS), ("lr_scheduler", ("cosine", "step")), ("augment", AUGMENTS),
                              ("quant_zero_point", ("integer", "float"))):
            check_choice(getattr(self, name), allowed, f"value of --{name}")
        # Batch norm has no variance of a single image whose features are one pixel.
        for name, least in (("num_epochs", 1), ("train_batch_size", 2), ("eval_batch_size", 1), ("lr_step_size", 1),
                            ("print_freq", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}; allowed: {least} or more")
        if any(r < 32 for r in self.resolution):
            raise UserError(f"--resolution {min(self.resolution)}; allowed: 32 pixels or more")
        if not 0 < self.bn_momentum <= 1:
            raise UserError(f"--bn_momentum {self.bn_momentum}; allowed: above 0, at most 1")

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate at batch `step` (from 0) of `epoch`, `steps` batches an epoch.

        Cosine: down to 0 over all batches, advancing every `lr_step_size` batches. Step: times `lr_gamma` every
        `lr_step_size` epochs.
        """
        if self.lr_scheduler == "step":
            return self.learning_rate * self.lr_gamma ** (epoch // self.lr_step_size)
        done = (epoch * steps + step) // self.lr_step_size * self.lr_step_size
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done / (steps * self.num_epochs)))


# From scratch, batch norm needs a momentum that follows a changing network.
FP32_DEFAULTS = {"num_epochs": 10, "train_batch_size": 64, "optimizer": "adam", "learning_rate": 1e-3,
                 "bn_momentum": 0.1}
_HELP = {
    "output_path": "folder of checkpoint.pth (fp32) and lsq.pth (int8)",
    "teacher_arch": "such as efficientnet-b0 ... efficientnet-b7, efficientnet-tiny, regnet-y-1.6gf; empty: with "
                    "--quant_mode that of the fp32 file, else efficientnet-b5",
    "teacher_weights": "weights to start from: imagenet (torchvision downloads them), or a file: torchvision's or a "
                       "published teacher's; empty: random, or with --quant_mode <output_path>/checkpoint.pth",
    "dataset": "digits, folder, CIFAR10 ...; empty: with --quant_mode that of the fp32 file, else folder if "
               "--dataset_path is given, else digits",
    "dataset_path": "folder with train/ and val/, or the ILSVRC tar files",
    "augment": "default or auto_augment_tf",
    "resolution": "image size in pixels; of several each batch takes one at random; empty: with --quant_mode those of "
                  "the fp32 file, else 224, for digits 64",
    "num_epochs": "epochs",
    "train_batch_size": "images per batch and process",
    "eval_batch_size": "images per batch and process in evaluation",
    "num_workers": "image loading processes",
    "optimizer": "sgd, sgd_nesterov or adam",
    "learning_rate": "rate at the start",
    "momentum": "of sgd",
    "weight_decay": "of convolution and linear weights",
    "lr_scheduler": "cosine or step",
    "lr_step_size": "batches between steps of the cosine; epochs between those of step",
    "lr_gamma": "factor of step",
    "grad_clip_value": "gradients are clipped to this size; 0: not",
    "bn_momentum": "share of a batch in the running statistics of batch norm",
    "quant_zero_point": "of the int8 teacher's activations: integer, or float as published",
    "manual_seed": "of the random weights and of the images' order and augmentation",
    "print_freq": "batches between log lines",
    "checkpoint_minutes": "least minutes between checkpoints within an epoch, which follow a log line",
    "debug": f"{DEBUG_BATCHES} batches an epoch",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per setting; the default of some depends on the mode."""
    for field in dataclasses.fields(TeacherConfig):
        text = _HELP[field.name]
        if field.name == "debug":
            parser.add_argument("--debug", action="store_true", default=None, help=text)
            continue
        shown, kind = f"{field.default!r}", type(field.default)
        if field.name in FP32_DEFAULTS:
            shown = f"{FP32_DEFAULTS[field.name]!r}; with --quant_mode {shown}"
        if kind is tuple:
            parser.add_argument(f"--{field.name}", type=int, nargs="+", metavar="PIXELS", help=text)
        else:
            parser.add_argument(f"--{field.name}", type=kind, help=f"{text} (default: {shown})")


def config_from_arguments(args: argparse.Namespace) -> TeacherConfig:
    """The settings given, the others from the mode's defaults; UserError for one that cannot work."""
    values = {} if args.quant_mode else dict(FP32_DEFAULTS)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TeacherConfig)}
    values |= {name: value for name, value in given.items() if value is not None}
    return TeacherConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
