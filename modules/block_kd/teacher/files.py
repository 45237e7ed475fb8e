"""Teachers from files: our own checkpoints, published ones, and torchvision's weights."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from modules.block_kd.teacher.backbone import Teacher, quantize_layers
from modules.block_kd.teacher.build import build_teacher, torchvision_name
from modules.block_kd.teacher.registry import teachers
from modules.modeling.ops.lsq_plus import PUBLISHED_NAMES
from modules.modeling.public_weights.packages import PACKAGE, package_weights
from modules.modeling.quant_mode import PUBLISHED_QUANT, QuantMode
from modules.modeling.restore import Record
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.utils.checkpoint import load_checkpoint, load_weights, without_wrappers
from modules.utils.errors import UserError
from modules.utils.torchvision_compat import import_torchvision

HOW_TO = "python -m modules.block_kd.teacher"
DEFAULT_ARCH = "efficientnet-b5"


@dataclass(frozen=True)
class TeacherRecord(Record):
    """Facts about a teacher for later scripts; the `config` of its checkpoint.

    `form` is the kind of arithmetic (see `Teacher`), `resolutions` are the image sizes of training in pixels, `quant`
    is the quantisers' mode (None: fp32), `training` holds the settings.
    """

    arch: str
    classes: tuple[str, ...]
    form: str = "tensorflow"
    dataset: str = ""
    resolutions: tuple[int, ...] = (224,)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    quant: QuantMode | None = None
    training: dict = field(default_factory=dict)

    def build(self) -> Teacher:
        """The teacher with random weights, its quantisers in the recorded mode."""
        teacher = build_teacher(self.arch, len(self.classes), self.form)
        if self.quant:
            self.quant.apply(quantize_layers(teacher))
        teacher.record = self
        return teacher


def fresh_record(arch: str, classes: tuple[str, ...], form: str) -> TeacherRecord:
    """The record of a teacher without a checkpoint, with the normalisation that its kind has."""
    return TeacherRecord(arch, classes, form, mean=teachers[arch].mean, std=teachers[arch].std)


def load_teacher(arch: str | None, checkpoint: str | Path | None = None, *, weights: str | Path | None = None,
                 quant: bool = False, num_classes: int | None = None) -> Teacher:
    """A teacher with loaded weights, always in eval mode, without gradients; `record` describes it.

    Args:
        arch: one of `get_available_teachers()`; None: the checkpoint's.
        checkpoint: a file that `python -m modules.block_kd.teacher` wrote, or a published one.
        weights: instead of it "imagenet", for torchvision's weights, "package", or a file of weights (see
            `load_weights_file`).
        quant: the LSQ+ teacher; `checkpoint` must be one.
        num_classes: checked against the file.

    Raises:
        UserError: an unknown teacher; a missing, damaged or foreign file; one of another teacher, form or number of
            classes.
    """
    if (checkpoint is None) == (weights is None):
        raise UserError(f"a teacher needs either a checkpoint, which `{HOW_TO}` writes, or --teacher_weights "
                        "(imagenet, package, or a file)")
    if weights is not None and quant:
        raise UserError(f"weights {str(weights)!r} are fp32; an LSQ+ teacher is a checkpoint that "
                        f"`{HOW_TO} --quant_mode` writes")
    if checkpoint is None:
        teacher = load_weights_file(arch or DEFAULT_ARCH, weights)
    else:
        teacher, _ = read_teacher(checkpoint, arch, quant)
    if num_classes not in (None, teacher.num_classes):
        raise UserError(f"teacher {str(checkpoint or weights)!r} has {teacher.num_classes} classes, not {num_classes}")
    return teacher.freeze().to(memory_format=torch.channels_last)  # a third less time on a CPU


def read_teacher(path: str | Path, arch: str | None, quant: bool) -> tuple[Teacher, dict]:
    """The trainable teacher of a checkpoint, and the checkpoint; errors as of `load_teacher`."""
    state = load_checkpoint(path, "teacher checkpoint", maker=f"{HOW_TO}{' --quant_mode' if quant else ''}")
    record = read_record(state, arch, path)
    if quant and record.quant is None:
        raise UserError(f"teacher checkpoint {str(path)!r} is an fp32 one; the LSQ+ one is made by `{HOW_TO} "
                        f"--quant_mode --output_path {Path(path).parent}`")
    if record.quant and not quant:
        raise UserError(f"teacher checkpoint {str(path)!r} is an LSQ+ one; an fp32 teacher is needed here, such as the "
                        f"checkpoint.pth that `{HOW_TO}` writes")
    teacher = record.build()
    load_weights(teacher, state, path, "teacher checkpoint")
    return teacher, state


def read_record(state: dict, arch: str | None, path: str | Path) -> TeacherRecord:
    """The record in a checkpoint. A published checkpoint has none; its tensors give one.

    Raises:
        UserError: not a teacher's checkpoint, or that of a teacher other than `arch`.
    """
    weights = state.get("model")
    if not isinstance(weights, dict) or not weights:
        raise UserError(f"teacher checkpoint {str(path)!r} has no weights under 'model'; it holds: "
                        f"{', '.join(map(str, state))[:200]}; a bare state dict goes to --teacher_weights")
    if "config" in state:
        if not isinstance(state["config"], dict) or "arch" not in state["config"]:
            raise UserError(f"{str(path)!r} is no teacher's checkpoint; `{HOW_TO}` writes one")
        record = TeacherRecord.from_dict(state["config"], f"teacher checkpoint {str(path)!r}")
        if arch not in (None, record.arch):
            raise UserError(f"teacher checkpoint {str(path)!r} is of {record.arch}, not of {arch} (--teacher_arch)")
        return record
    quantized = any(key.endswith(f".{name}") for key in weights for name in PUBLISHED_NAMES.values())
    classes = next((len(v) for k, v in weights.items() if k.endswith("_fc.bias")), 1000)
    return TeacherRecord(arch or DEFAULT_ARCH, tuple(map(str, range(classes))),
                         quant=PUBLISHED_QUANT if quantized else None)


def load_weights_file(arch: str, weights: str | Path, num_classes: int | None = None) -> Teacher:
    """An fp32 teacher from weights without a record.

    Args:
        weights: "imagenet": torchvision downloads its weights. "package": those of an installed package. Or the file
            of a state dict, bare or under `model` or `state_dict`, with published names or with torchvision's names
            (then the teacher has torchvision's form).
        num_classes: the classifier stays random if the file has another number.

    Raises:
        UserError: a failed download, a missing, damaged or foreign file.
    """
    if str(weights) == PACKAGE:
        weights = package_weights(arch)
    state = _imagenet_weights(arch) if str(weights) == "imagenet" else _tensors(weights)
    published = any(key.removeprefix("module.").startswith("_conv_stem") for key in state)
    teacher = build_teacher(arch, 1000, "tensorflow" if published else teachers[arch].forms[-1])
    state = without_wrappers(state, teacher)
    if not published:
        state = _renamed(teacher, state, weights)
    classifier = list(teacher.state_dict())[-1].rpartition(".")[0]  # the last layer
    given = len(state.get(f"{classifier}.bias", range(1000)))
    record = fresh_record(arch, tuple(map(str, range(num_classes or given))), teacher.form)
    teacher = record.build()
    if len(record.classes) != given:
        state |= {key: value for key, value in teacher.state_dict().items() if key.rpartition(".")[0] == classifier}
    load_weights(teacher, {"model": state}, weights, "file of weights")
    return teacher


def _tensors(path: str | Path) -> dict:
    state = load_checkpoint(path, "file of weights")
    state = state.get("model", state.get("state_dict", state))
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"file of weights {str(path)!r} is not a state dict; it holds: "
                        f"{', '.join(map(str, state))[:200]}")
    return state


def _renamed(teacher: Teacher, state: dict, path: str | Path) -> dict:
    renamed = {}
    for key, value in state.items():
        try:
            renamed[teacher.torchvision_key(key)] = value
        except (AttributeError, KeyError, IndexError, ValueError):
            raise UserError(f"file of weights {str(path)!r} does not fit teacher {teacher.arch!r}: it holds {key!r}; "
                            "allowed: a state dict of torchvision's network, or of a published teacher") from None
    return renamed


def _imagenet_weights(arch: str) -> dict:
    models = import_torchvision().models
    weights = models.get_model_weights(torchvision_name(arch)).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=True))
    except (OSError, RuntimeError) as error:
        raise UserError(f"torchvision could not download {weights.url} ({error}); fetch that file elsewhere and give "
                        "its path to --teacher_weights") from None
