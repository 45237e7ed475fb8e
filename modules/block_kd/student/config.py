"""Settings of block distillation, fp32 and int8, and their command line options."""
from __future__ import annotations

import argparse
import math
from dataclasses import MISSING, dataclass, replace

from modules.block_kd import shared
from modules.block_kd.student.space import check_output_sizes, stage_list
from modules.modeling.placement import PLACEMENTS
from modules.search_space.superspace import get_searched_superspace, get_superspace
from modules.utils import settings
from modules.utils.cli import add_run_arguments
from modules.utils.errors import UserError
from modules.utils.settings import PIXELS, SEED, TRAIN_BATCH, check_settings, option, setting

LOSS_FUNCTIONS = ("nsr", "mse")
OPTIMIZERS = ("adam", "sgd", "sgd_nesterov")
# Settings that a resumed run may change. All others change the result of a step.
FREE_ON_RESUME = {"output_path", "dataset_path", "eval_batch_size", "num_workers", "stage_list", "print_freq",
                  "checkpoint_minutes"}


@dataclass(frozen=True)
class BlockKDConfig:
    """Settings of a run of train_block_kd.py or lsq_block_kd.py, named as their options."""

    superspace: str = setting(MISSING, "superspace, such as onnxw, mobilew, onnxw_tiny")
    output_path: str = setting("", "folder of the students, <output_path>/<stage>_<block>/",
                               shown="checkpoints/block_kd/<superspace>")
    dataset: str = setting("", "data set: digits, folder, CIFAR10 ...; empty: folder with "
                           "--dataset_path")
    dataset_path: str = shared.IMAGES.field()
    valid_size: int = setting(50000, "images held out of the training set to evaluate students on", low=1,
                              unit="images")
    augment: str = shared.AUGMENT.field()
    train_batch_size: int = setting(64, "images per batch and process", **TRAIN_BATCH)
    eval_batch_size: int = shared.EVAL_BATCH.field()
    num_workers: int = shared.LOADERS.field()
    num_epochs: int = setting(5, "epochs", low=1)
    train_batches: int = shared.MOST_BATCHES.field()
    learning_rate_list: tuple[float, ...] = setting((), "learning rates, one for each searched stage; empty: those "
                                                    "published for the first stage, the middle ones, the last",
                                                    many="+", low=0, metavar="LR")
    lr_scheduler: str = shared.DECAY.field()
    lr_step_size: int = replace(shared.DECAY_STEP, default=20).field()
    lr_gamma: float = shared.DECAY_FACTOR.field()
    optimizer: str = setting("adam", "optimiser", choices=OPTIMIZERS)
    momentum: float = shared.MOMENTUM.field()
    weight_decay: float = setting(1e-4, "weight decay of convolutions", low=0)
    grad_clip_value: float = replace(shared.CLIP, default=1.0).field()
    stage_list: tuple[str, ...] = setting((), "students to train, such as stage1_0 stage1_2; empty: all",
                                          metavar="NAME")
    hw_list: tuple[int, ...] = setting((), "resolutions; empty: the superspace's for block tables", many="+", **PIXELS)
    loss_fn: str = setting("nsr", "loss; nsr: noise-to-signal ratio", choices=LOSS_FUNCTIONS)
    inplace_distill_from_teacher: bool = setting(False, "all four configurations of a step learn from the teacher; "
                                                 "otherwise the last three learn from the largest")
    num_calib_batches: int = setting(20, "training batches that calibrate batch norm before an evaluation", low=1)
    placement: str = setting("lsq", "owner of a tensor's quantiser; lsq: the layer it enters, engine: the one that "
                             "produces it", choices=PLACEMENTS)
    manual_seed: int = SEED.field()
    print_freq: int = setting(20, "batches between log lines", low=1)
    checkpoint_minutes: float = shared.CHECKPOINTS.field()
    debug: bool = setting(False, f"{shared.DEBUG_BATCHES} training and evaluation batches, one epoch")

    def __post_init__(self):
        space = get_searched_superspace(self.superspace)
        check_settings(self)
        shared.check_momentum(self.optimizer, self.momentum)
        if len(self.learning_rate_list) != len(space.searched):
            raise UserError(f"--learning_rate_list has {len(self.learning_rate_list)} values; {self.superspace} needs "
                            f"{len(space.searched)}, one for each of {', '.join(s.name for s in space.searched)}")
        check_output_sizes(space, self.stages, self.resolutions, self.loss_fn)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Input resolutions in pixels, such as (160, 192, 224)."""
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
    settings.add_arguments(parser, BlockKDConfig, leave_out=() if int8 else ("placement",), **defaults)
    option(parser, "--test_only", False, "only evaluate the existing students")
    add_run_arguments(parser, "students")
