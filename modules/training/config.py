"""Training settings: a yaml file, any value of which a command line option of the same name overrides."""
from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from modules.modeling.placement import PLACEMENTS
from modules.utils.errors import UserError, check_choice
from modules.utils.text import read_text


@dataclass
class TrainConfig:
    """Settings of supernet training; the defaults are the published recipe (supernet_training_configs/train.yaml)."""

    # data
    dataset: str = ""                        # digits, folder, CIFAR10 ...; empty: folder if dataset_path is given
    dataset_path: str = ""                   # folder with train/ and val/
    augment: str = "auto_augment_tf"         # or default, or shift
    crop_scale_min: float = 0.0              # least part of an image in a training crop; 0: what suits the data set
    eval_crop: float = 224 / 256             # part of the side that the centre crop of evaluation keeps
    valid_size: int = 0                      # images held out of the training set for validation
    n_classes: int = 0                       # width of the classifier; 0: the data set's number of classes
    resolutions: tuple[int, ...] = ()        # input sizes in pixels; empty: the superspace's
    batch_size_per_gpu: int = 64
    eval_batch_size_per_gpu: int = 32
    drop_last: bool = False
    data_loader_workers_per_gpu: int = 8
    # sandwich rule with in-place distillation
    num_arch_training: int = 4               # subnets per step: largest, random ones, smallest
    inplace_distill: bool = True             # the others learn from the largest; False: from the labels
    soft_target_dropout: bool = True         # the soft target carries the largest net's dropout noise
    align_sample: bool = False               # all blocks of a stage alike in random subnets
    subnet_choice: str = ""                  # train this subnet alone, from the labels; empty: all
    alpha_min: float = -1.0
    alpha_max: float = 1.0
    iw_clip: float = 5.0
    label_smoothing: float = 0.1
    dropout: float = 0.2
    grad_clip_value: float = 1.0
    grad_clip_norm: float = 0.0              # of all gradients together; 0: none
    zero_last_gamma: bool = True
    bn_momentum: float = 0.1
    bn_eps: float = 1e-5
    # optimiser and schedule
    optimizer: str = "sgd"                   # or adam
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay_weight: float = 1e-5        # convolution and linear weights
    weight_decay_bn_bias: float = 0.0        # norms, biases and quantiser parameters
    base_lr: float = 0.1                     # for 256 images per step; scales with their number
    schedule: str = "cosine"                 # or linear
    clamp_lr_percent: float = 0.0            # floor of the cosine as a share of the base rate
    warmup_epochs: float = 5
    epochs: int = 360
    # int8 training (--quant_mode)
    quant_base_lr_factor: float = 0.1
    quant_warmup_epochs: float = 3
    quant_epochs: int = 50
    quant_max_batch_size_per_gpu: int = 64
    quant_zero_point: str = "integer"        # or float, as published
    quant_start: str = "minmax"              # or lsq
    placement: str = "lsq"                   # layers own their input's quantiser; engine: who produces it does
    # validation
    valid_freq: int = 5                      # epochs between validations; the last epoch is always validated
    valid_batches: int = 0                   # validate on this many batches per process only; 0: all
    post_bn_calibration_batch_num: int = 20
    # run
    init_checkpoint: str = ""                # file whose weights to start from; empty: random, or in int8 training
                                             # checkpoint.pth of the same folder
    calibration_path: str = ""               # folder of images that calibrate the batch norm of init_checkpoint; empty:
                                             # its statistics as they are
    new_head: bool = False                   # except those of the classifier, which starts afresh
    only_train_head: bool = False            # the classifier alone learns
    models_save_dir: str = "checkpoints/supernet_training"
    seed: int = 0
    print_freq: int = 10                     # steps between log lines
    checkpoint_minutes: float = 15           # least minutes between checkpoints, which follow a log line
    ema_decay: float = 0.0                   # of an average of the weights that is validated and kept; 0: none
    sync_bn: bool = False                    # batch norm over the images of all processes
    channels_last: bool = True
    amp: str = "none"                        # or bf16, or auto: a short measurement chooses
    compile: bool = False                    # the quantisers' passes fused by torch.compile; needs a C++ compiler
    debug_batches: int = 0                   # stop every epoch after this many steps; 0: never

    def __post_init__(self):
        for name, allowed in (("optimizer", ("sgd", "adam")), ("schedule", ("cosine", "linear")),
                              ("amp", ("none", "bf16", "auto")), ("quant_zero_point", ("integer", "float")),
                              ("quant_start", ("minmax", "lsq")), ("placement", PLACEMENTS)):
            check_choice(getattr(self, name), allowed, f"value of {name}")
        for name in ("batch_size_per_gpu", "eval_batch_size_per_gpu", "epochs", "quant_epochs", "valid_freq",
                     "print_freq", "post_bn_calibration_batch_num"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.num_arch_training < 2:
            raise UserError(f"num_arch_training is {self.num_arch_training}; allowed: 2 (largest and smallest) or more")

    def for_quantization(self) -> TrainConfig:
        """The settings of int8 training."""
        return dataclasses.replace(
            self, base_lr=self.base_lr * self.quant_base_lr_factor, warmup_epochs=self.quant_warmup_epochs,
            epochs=self.quant_epochs,
            batch_size_per_gpu=min(self.batch_size_per_gpu, self.quant_max_batch_size_per_gpu))


# Settings that a resumed run may change: no other may, for they decide what a step computes.
FREE_ON_RESUME = {"dataset_path", "init_checkpoint", "calibration_path", "eval_batch_size_per_gpu",
                  "data_loader_workers_per_gpu", "models_save_dir", "print_freq", "checkpoint_minutes", "valid_freq",
                  "valid_batches"}


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config-file` and one option per setting."""
    parser.add_argument("--config-file", "--config_file", default="supernet_training_configs/train.yaml",
                        help="yaml file with the settings")
    group = parser.add_argument_group("settings, which override the yaml file")
    for name, (kind, default) in _fields().items():
        if name != "align_sample":
            group.add_argument(f"--{name}", metavar=_type_name(kind), nargs="*" if kind is tuple else None,
                               help=f"default {default!r}")


def config_from_arguments(args: argparse.Namespace) -> TrainConfig:
    """Settings from the yaml file and the options given; UserError for an unknown key or a malformed value."""
    values = load_yaml(args.config_file)
    for name in _fields():
        given = getattr(args, name, None)
        if given is not None:
            values[name] = _convert(name, given, f"option --{name}")
    return TrainConfig(**values)


def load_yaml(path: str | Path) -> dict:
    """The checked settings of a yaml file."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise UserError(f"config file {str(path)!r} does not exist; allowed: a yaml file such as "
                        "supernet_training_configs/train.yaml")
    try:
        content = yaml.safe_load(read_text(path, "config file")) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"config file {str(path)!r} is not yaml: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"config file {str(path)!r} holds {type(content).__name__}; expected 'name: value' lines")
    for name in content:
        check_choice(name, _fields(), f"setting in {path}:")
    return {name: _convert(name, value, f"{path}: {name}") for name, value in content.items()}


def _fields() -> dict[str, tuple[type, object]]:
    hints = get_type_hints(TrainConfig)
    return {f.name: (tuple if "tuple" in str(hints[f.name]) else hints[f.name], f.default)
            for f in dataclasses.fields(TrainConfig)}


def _type_name(kind: type) -> str:
    return {tuple: "PIXELS", bool: "true|false"}.get(kind, kind.__name__.upper())


def _convert(name: str, value, where: str):
    kind = _fields()[name][0]
    try:
        if kind is tuple:
            return tuple(int(v) for v in (value or ()))
        if kind is bool:
            if isinstance(value, str):
                value = {"true": True, "1": True, "false": False, "0": False}[value.lower()]
            if not isinstance(value, bool):
                raise ValueError
            return value
        if kind is str:
            return "" if value is None else str(value)
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return kind(float(value))
    except (TypeError, ValueError, KeyError):
        raise UserError(f"value {value!r} of {where}; expected {_type_name(kind)}") from None
