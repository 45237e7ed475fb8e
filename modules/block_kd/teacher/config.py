"""Settings of teacher training, fp32 and int8, and their command line options."""
from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

from modules.block_kd import shared
from modules.modeling.codes import ZERO_POINTS
from modules.utils import settings
from modules.utils.settings import PIXELS, SEED, TRAIN_BATCH, check_settings, setting, settings_of

OPTIMIZERS = ("sgd", "sgd_nesterov", "adam")
DEFAULT_OUTPUT = "checkpoints/block_kd/teacher_checkpoint"
# Settings that a resumed run may change. All others change the result of a step.
FREE_ON_RESUME = {"output_path", "dataset_path", "eval_batch_size", "num_workers", "print_freq", "checkpoint_minutes"}


@dataclass(frozen=True)
class TeacherConfig:
    """Settings of a run, named as the options.

    The defaults are the published ones of int8 fine-tuning. `FP32_DEFAULTS` replaces some for training in fp32: no
    published settings exist for it.
    """

    output_path: str = setting(DEFAULT_OUTPUT, "folder of checkpoint.pth (fp32) and lsq.pth (int8)")
    teacher_arch: str = setting("", "teacher, such as efficientnet-b0 ... efficientnet-b7, efficientnet-tiny, "
                                "efficientnet-lite0 ... lite2, regnet-y-1.6gf; empty: with --quant_mode that of the "
                                "fp32 file, else efficientnet-b5")
    teacher_weights: str = setting("", "weights to start from: imagenet (torchvision downloads them), package "
                                   "(those of an installed one, for efficientnet-lite0 ... lite2), or a file: "
                                   "torchvision's or a published teacher's; empty: random, or with --quant_mode "
                                   "<output_path>/checkpoint.pth")
    learn: str = setting("", "what the int8 teacher learns: labels, or the answers of its fp32 form, for which images "
                         "without labels will do (a folder of image files); empty: answers with --quant_mode and "
                         "--teacher_weights package, else labels", choices=("", "labels", "answers"))
    dataset: str = setting("", "data set: digits, folder, CIFAR10 ...; empty: with --quant_mode that of the fp32 file, "
                           "else folder with --dataset_path")
    dataset_path: str = shared.IMAGES.field()
    augment: str = shared.AUGMENT.field()
    resolution: tuple[int, ...] = setting(
        (), "image size; of several each batch takes one at random; empty: with --quant_mode those of the fp32 file, "
        "else 224, for digits 64", many="+", **PIXELS | {"low": 32})
    num_epochs: int = setting(1, "epochs", low=1)
    train_batches: int = shared.MOST_BATCHES.field()
    eval_images: int = setting(0, "most images of an evaluation, spread over the validation images; 0: all", low=0)
    train_batch_size: int = setting(12, "images per batch and process", **TRAIN_BATCH)
    eval_batch_size: int = shared.EVAL_BATCH.field()
    num_workers: int = shared.LOADERS.field()
    optimizer: str = setting("sgd", "optimiser", choices=OPTIMIZERS)
    learning_rate: float = setting(1e-3, "learning rate at the start", low=0)
    momentum: float = shared.MOMENTUM.field()
    weight_decay: float = setting(1e-4, "weight decay of convolutions and of the classifier", low=0)
    lr_scheduler: str = shared.DECAY.field()
    lr_step_size: int = shared.DECAY_STEP.field()
    lr_gamma: float = shared.DECAY_FACTOR.field()
    grad_clip_value: float = shared.CLIP.field()
    bn_momentum: float = setting(0.01, "share of a batch in the running statistics of batch norm", above=0, high=1)
    quant_zero_point: str = setting("integer", "zero points of the int8 teacher's activations; float: as published",
                                    choices=ZERO_POINTS)
    manual_seed: int = replace(SEED, meaning="seed of the random weights, and of the images' order and augmentation"
                               ).field()
    print_freq: int = setting(50, "batches between log lines", low=1)
    checkpoint_minutes: float = shared.CHECKPOINTS.field()
    debug: bool = setting(False, f"{shared.DEBUG_BATCHES} batches an epoch")

    def __post_init__(self):
        check_settings(self)
        shared.check_momentum(self.optimizer, self.momentum)

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per setting; some defaults depend on the mode."""
    shown = {name: f"{value}; with --quant_mode {settings_of(TeacherConfig)[name].default}"
             for name, value in FP32_DEFAULTS.items()}
    settings.add_arguments(parser, TeacherConfig, shown=shown)
