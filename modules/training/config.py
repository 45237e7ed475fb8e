"""Training settings: a yaml file, and a command line option for each value that overrides it."""
from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modules.datasets.transforms import AUGMENTS
from modules.modeling.codes import STARTS, ZERO_POINTS
from modules.modeling.placement import PLACEMENTS
from modules.runtime.engines import is_model_file
from modules.search_space.preprocessing import EVAL_CROP
from modules.training.published_config import translate
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.settings import (
    BATCH,
    PIXELS,
    SEED,
    TRAIN_BATCH,
    WORKERS,
    add_arguments,
    check_settings,
    option,
    read_settings,
    read_yaml,
    setting,
    settings_of,
)

CONFIG_FILE = str(REPOSITORY / "supernet_training_configs" / "train.yaml")


def _group(name: str):
    """A function that declares settings of one heading."""
    return lambda default, meaning, **facts: setting(default, meaning, group=name, **facts)


_data, _sandwich, _int8 = _group("data"), _group("sandwich rule with in-place distillation"), _group("int8 training")
_teach = _group("teacher")
_rate, _valid, _run = _group("optimiser and schedule"), _group("validation"), _group("run")
_EPOCHS = {"unit": "epochs"}
_SEVERAL, _SOFT, _TEACHER = "subnet_choice=", "subnet_choice= inplace_distill=true", "teacher"
_FEATURES = "teacher teacher_once=false"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of supernet training; the defaults are the published recipe (supernet_training_configs/train.yaml)."""

    dataset: str = _data("", "data set: digits, folder, CIFAR10 ...; empty: folder if --dataset_path is given")
    dataset_path: str = _data("", "folder with train/ and val/, or of a data set by name",
                              aliases=("--dataset_dir",))
    augment: str = _data("auto_augment_tf", "augmentation of the training images", choices=AUGMENTS)
    random_erasing: float = _data(0.0, "probability that a rectangle of a training image is set to 0", low=0, high=1)
    lighting: float = _data(0.0, "strength of the colour noise along the principal components of ImageNet's colours",
                            low=0, high=10)
    crop_scale_min: float = _data(0.0, "least part of an image in a training crop; 0: the data set's own value", low=0,
                                  high=1, needs="augment!=shift")
    eval_crop: float = _data(EVAL_CROP, "part of the side that the centre crop of evaluation keeps", above=0, high=1)
    valid_size: int = _data(0, "images held out of the training set for validation; 0: the validation set", low=0,
                            unit="images")
    n_classes: int = _data(0, "width of the classifier; 0: the data set's number of classes", low=0, high=10**6)
    resolutions: tuple[int, ...] = _data((), "input sizes; empty: the superspace's", **PIXELS)
    progressive_resolutions: tuple[int, ...] = _data((), "most pixels of a side in the first of equal parts of fp32 "
                                                     "training, such as 16 24; the last part has no such limit; empty: "
                                                     "none has", **PIXELS)
    batch_size_per_gpu: int = _data(64, "images per step and process", **TRAIN_BATCH)
    eval_batch_size_per_gpu: int = _data(32, "images per batch and process in validation", **BATCH)
    drop_last: bool = _data(False, "leave out a last batch that is not full")
    data_loader_workers_per_gpu: int = dataclasses.replace(WORKERS, default=8, group="data").field()

    num_arch_training: int = _sandwich(4, "subnets per step: largest, random ones, smallest", low=2, high=1000,
                                       needs=_SEVERAL)
    inplace_distill: bool = _sandwich(True, "the other subnets learn from the largest; false: from the labels",
                                      needs=_SEVERAL)
    label_epochs: float = _sandwich(0.0, "first epochs of fp32 training in which all subnets learn from the labels, "
                                    "before in-place distillation", low=0, **_EPOCHS, needs=_SOFT)
    soft_target_dropout: bool = _sandwich(True, "the soft target carries the largest net's dropout noise", needs=_SOFT)
    align_sample: bool = _sandwich(False, "all blocks of a stage alike in random subnets")
    subnet_choice: str = _sandwich("", "subnet to train alone, from the labels; empty: all")
    alpha_min: float = _sandwich(-1.0, "lower alpha of the two alpha-divergences from the soft target; the larger "
                                 "divergence counts", low=-100, high=100, needs=_SOFT)
    alpha_max: float = _sandwich(1.0, "higher alpha of the two", low=-100, high=100, needs=_SOFT)
    iw_clip: float = _sandwich(5.0, "largest ratio of probabilities that counts in the divergence of --alpha_min",
                               above=0, needs=_SOFT)
    label_smoothing: float = _sandwich(0.1, "share of the labels that is spread over all classes", low=0, below=1)
    dropout: float = _sandwich(0.2, "share of the largest net's features that is dropped before the classifier", low=0,
                               below=1)
    mixup: float = _rate(0.0, "alpha of Beta(alpha, alpha), the law of the share of mixed images and labels; "
                         "0: not mixed", low=0, high=100)
    weight_init: str = _rate("default", "how weights start; custom: as in Zen-NAS, Xavier-normal with a gain of "
                             "3.26033", choices=("default", "custom"))
    grad_clip_value: float = _rate(1.0, "largest size of an entry of a gradient; 0: any", low=0)
    grad_clip_norm: float = _rate(0.0, "largest norm of all gradients together; 0: any", low=0)
    zero_last_gamma: bool = _rate(True, "the last batch norm of a residual branch starts at 0")
    bn_momentum: float = _rate(0.1, "share of a batch in the running statistics of batch norm", above=0, high=1)
    bn_eps: float = _rate(1e-5, "number added to the variance in batch norm", above=0, high=1)

    optimizer: str = _rate("sgd", "optimiser; muon: of dense kernels, with SGD for all else",
                           choices=("sgd", "adam", "muon"))
    momentum: float = _rate(0.9, "momentum of SGD and Muon", low=0, below=1, needs="optimizer!=adam")
    nesterov: bool = _rate(True, "Nesterov's form of the momentum", needs="optimizer=sgd")
    muon_turn: float = _rate(1.25, "turn of a kernel by Muon in the whole training; the largest step is this over the "
                             "root of the number of steps, as a share of the kernel's norm", low=0,
                             needs="optimizer=muon")
    weight_decay_weight: float = _rate(1e-5, "weight decay of convolutions, Muon's kernels excepted, and of the "
                                       "classifier", low=0)
    weight_decay_bn_bias: float = _rate(0.0, "weight decay of norms, biases and quantisers", low=0)
    base_lr: float = _rate(0.1, "learning rate for 256 images per step, in proportion for more", low=0)
    schedule: str = _rate("cosine", "decay of the learning rate", choices=("cosine", "linear"))
    clamp_lr_percent: float = _rate(0.0, "floor of the cosine, as a share of the base rate", low=0, high=1,
                                    needs="schedule=cosine")
    warmup_epochs: float = _rate(5, "epochs in which the learning rate rises from 0", low=0, **_EPOCHS)
    epochs: int = _rate(360, "epochs of fp32 training", low=1, **_EPOCHS)

    teacher: tuple[str, ...] = _teach((), "network to learn from, beside the labels, by a name of --network; with "
                                      "--teacher_once also several, and model files; empty: none", kind=str, many="*")
    teacher_checkpoint: str = _teach("", "its checkpoint, or the folder that holds <its supernet>/checkpoint.pth; "
                                     "empty: --models_save_dir", needs=_TEACHER)
    teacher_once: bool = _teach(False, "the teachers answer each training image once, whole, before the first step, "
                                "and the student learns the mean of their logits in every epoch, and no features",
                                needs=_TEACHER)
    teacher_answers_dir: str = _teach("", "folder that keeps these answers, also for other trainings with the same "
                                      "teachers and images; empty: beside the checkpoints",
                                      needs="teacher teacher_once=true")
    teacher_strides: tuple[int, ...] = _teach((16, 32), "strides of the features to learn, through 1 x 1 projections",
                                              low=1, high=1024, many="*", needs=_FEATURES)
    teacher_feature_weight: float = _teach(1.0, "factor of the loss of features", low=0, needs=_FEATURES)
    teacher_logit_weight: float = _teach(1.0, "factor of the loss of logits", low=0, needs=_TEACHER)
    teacher_temperature: float = _teach(1.0, "divisor of both networks' logits in the loss of logits", above=0,
                                        high=100, needs=_TEACHER)
    ts_clip: float = _teach(0.0, "largest size of a teacher's feature; 0: any", low=0, needs=_FEATURES)

    quant_base_lr_factor: float = _int8(0.1, "highest rate, and largest step of Muon, in int8 training, as shares of "
                                        "those in fp32", low=0)
    quant_warmup_epochs: float = _int8(3, "epochs of int8 training in which the rate rises", low=0, **_EPOCHS)
    quant_epochs: int = _int8(50, "epochs of int8 training", low=1, **_EPOCHS)
    quant_max_batch_size_per_gpu: int = _int8(64, "most images per step and process in int8 training", **TRAIN_BATCH)
    quant_zero_point: str = _int8("integer", "zero points of activations; float: as published",
                                  choices=ZERO_POINTS)
    quant_start: str = _int8("minmax", "how ranges start: at the least and largest value seen, or by LSQ's formula",
                             choices=STARTS)
    quant_weight_bits: int = _int8(8, "bits of weights, also in int8 files; with 7 onnxruntime is quicker on x86 "
                                   "without VNNI", low=2, high=8)
    placement: str = _int8("lsq", "owner of a tensor's quantiser; lsq: the layer it enters, engine: the one that "
                           "produces it", choices=tuple(PLACEMENTS))

    valid_freq: int = _valid(5, "epochs between validations; the last epoch is always validated", low=1)
    valid_batches: int = _valid(0, "batches per process to validate on; 0: all", low=0)
    post_bn_calibration_batch_num: int = _valid(20, "training batches that calibrate batch norm", low=1)

    init_checkpoint: str = _run("", "file with the first weights, or package (of efficientnet_lite0 ... lite2); "
                                "empty: random, or in int8 training checkpoint.pth of the same folder")
    calibration_path: str = _run("", "folder of images that calibrate the batch norm of --init_checkpoint; empty: "
                                 "its statistics stay", needs="init_checkpoint")
    new_head: bool = _run(False, "the classifier starts afresh, not from --init_checkpoint", needs="init_checkpoint")
    only_train_head: bool = _run(False, "the classifier alone learns")
    models_save_dir: str = _run("checkpoints/supernet_training", "folder; /<superspace>-<choice>-align0 is appended")
    seed: int = dataclasses.replace(SEED, group="run").field()
    print_freq: int = _run(10, "steps between log lines", low=1)
    checkpoint_minutes: float = _run(15, "least time between checkpoints, which follow a log line", low=0,
                                     unit="minutes")
    ema_decay: float = _run(0.0, "decay per step of an average of the weights, which is validated and kept; 0: none",
                            low=0, below=1)
    sync_bn: bool = _run(False, "batch norm over the images of all processes")
    channels_last: bool = _run(True, "memory layout with the channels last")
    amp: str = _run("none", "number format of the computation; none: float32, auto: a short measurement chooses",
                    choices=("none", "bf16", "auto"))
    compile: bool = _run(False, "the quantisers' passes are fused by torch.compile, for a GPU or many threads; needs a "
                         "C++ compiler")
    debug_batches: int = _run(0, "steps after which every epoch stops; 0: never", low=0)

    def __post_init__(self):
        check_settings(self)
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise UserError("--momentum 0 with --nesterov true; allowed: above 0, or --nesterov false")
        if self.optimizer == "muon" and self.momentum == 0:
            raise UserError("--momentum 0 with --optimizer muon; allowed: above 0, or --optimizer sgd")
        if self.mixup and self.teacher and self.teacher_once:
            raise UserError(f"--mixup {self.mixup:g} with --teacher_once, whose answers are of whole images; allowed: "
                            "--mixup 0, or a teacher that answers in every step")
        if not self.teacher_once and (len(self.teacher) > 1 or any(map(is_model_file, self.teacher))):
            raise UserError(f"--teacher {' '.join(self.teacher)}; allowed: the name of one network, or with "
                            "--teacher_once several, and model files")
        if self.lighting and self.augment == "shift":
            raise UserError(f"--lighting {self.lighting:g} with --augment shift, which makes whole batches; allowed: "
                            "0, or another augmentation")

    def for_quantization(self) -> TrainConfig:
        """The settings of int8 training; those of int8 training are their own."""
        factor = self.quant_base_lr_factor
        return dataclasses.replace(
            self, base_lr=self.base_lr * factor, quant_base_lr_factor=1.0,
            # The step is this over the root of int8's steps: that share of fp32's for any lengths, with equal batches.
            muon_turn=self.muon_turn * factor * math.sqrt(self.quant_epochs / self.epochs),
            warmup_epochs=self.quant_warmup_epochs, epochs=self.quant_epochs, label_epochs=0.0,
            progressive_resolutions=(),
            batch_size_per_gpu=min(self.batch_size_per_gpu, self.quant_max_batch_size_per_gpu))


# Settings that one subnet alone does not have.
SANDWICH = tuple(name for name, known in settings_of(TrainConfig).items() if _SEVERAL in known.needs.split())

# Settings that a resumed run may change. All others change the result of a step; those of int8's length and rate do it
# by way of `for_quantization`.
FREE_ON_RESUME = {"dataset_path", "init_checkpoint", "teacher_checkpoint", "teacher_answers_dir", "calibration_path",
                  "eval_batch_size_per_gpu", "data_loader_workers_per_gpu", "quant_max_batch_size_per_gpu",
                  "quant_base_lr_factor", "quant_warmup_epochs", "quant_epochs", "models_save_dir", "print_freq",
                  "checkpoint_minutes", "valid_freq", "valid_batches"}


def add_config_arguments(parser: argparse.ArgumentParser, leave_out: Iterable[str] = (), **facts) -> None:
    """Add `--config-file` and one option per setting but those of `leave_out`; `facts` as of `add_arguments`."""
    option(parser, "--config-file", CONFIG_FILE, "yaml file with the settings, which the options override",
           aliases=("--config_file",))
    settings_of(TrainConfig)["align_sample"].add_to(parser, given_only=True)  # a switch, as published
    add_arguments(parser, TrainConfig, leave_out=("align_sample", *leave_out), switches=False, **facts)


def load_yaml(path: str | Path) -> dict:
    """The checked settings of a yaml file, a published one too."""
    content = read_yaml(path, "config file", hint=f"a yaml file such as {CONFIG_FILE}")
    return read_settings(TrainConfig, in_present_form(translate(content, str(path))), str(path))


def in_present_form(values: dict) -> dict:
    """Settings that a version with one teacher at most wrote, a text, with a list of teachers."""
    teacher = values.get("teacher")
    return values | {"teacher": [teacher] if teacher else []} if isinstance(teacher, str) else values
