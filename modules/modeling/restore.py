"""Supernets from checkpoint files: the record of the network in a checkpoint, and the network from it."""
from __future__ import annotations

import os
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import torch
from torch import nn

from modules.modeling.ops.lsq_plus import has_trained_quantizers
from modules.modeling.public_weights.form import Form
from modules.modeling.public_weights.forms import find_form, from_foreign
from modules.modeling.public_weights.packages import PACKAGE, package_weights
from modules.modeling.quant_mode import PUBLISHED_QUANT, QuantMode
from modules.modeling.supernet import Supernet
from modules.modeling.zen_weights import NORM_EPS, from_published, is_published, published_classes
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_structure
from modules.search_space.networks.rows import network_of
from modules.search_space.preprocessing import EVAL_CROP, IMAGENET_MEAN, IMAGENET_STD
from modules.search_space.published import published_supernets
from modules.utils.checkpoint import load_checkpoint, load_weights
from modules.utils.errors import UserError
from modules.utils.files import is_file
from modules.utils.json_files import check_form


class Record:
    """The record of the network in a checkpoint's `config`: a dataclass as plain values, and back."""

    @property
    def named(self) -> bool:
        """Whether the class names are a data set's. A published file has none; its names are made up."""
        return bool(self.dataset)

    def to_dict(self) -> dict:
        """Plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict, where: str = "record"):
        """The inverse of `to_dict`; values of later versions are ignored.

        Raises:
            UserError: a field that is missing or of another form; `where` names the file.
        """
        check_form(values, dict, where, "config")
        forms = _forms(cls)
        values = {name: value for name, value in values.items() if name in forms}
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        check_form(values, {name: forms[name] for name in forms if name in needed or name in values}, where, "config")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if values.get("quant"):
            values["quant"] = _quant_mode(values["quant"], where)
        return cls(**values)


@cache
def _forms(record: type) -> dict:
    """The form (`check_form`) of each field of a record, from its annotation."""
    return {name: _form(hint) for name, hint in get_type_hints(record).items()}


def _form(hint):
    if get_origin(hint) is tuple:
        return [get_args(hint)[0]]
    if get_origin(hint) is UnionType:
        return tuple(_form(part) for part in get_args(hint))
    return dict if hint is QuantMode else hint


def _quant_mode(values: dict, where: str) -> QuantMode:
    forms = _forms(QuantMode)
    check_form(values, {name: forms[name] for name in forms if name in values}, where, "config.quant")
    unknown = [name for name in values if name not in forms]
    if unknown:
        raise UserError(f"{where}: config.quant has {unknown[0]!r}; known: {', '.join(forms)}")
    return QuantMode(**values)


@dataclass(frozen=True)
class ModelRecord(Record):
    """Facts about a trained supernet for later scripts; the `config` of its checkpoint."""

    supernet: str
    resolutions: tuple[int, ...]
    classes: tuple[str, ...]
    dataset: str = ""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    valid_size: int = 0
    quant: QuantMode | None = None
    training: dict = field(default_factory=dict)

    @property
    def eval_crop(self) -> float:
        """Part of the side that the centre crop of evaluation keeps; older checkpoints use the published value."""
        return self.training.get("eval_crop", EVAL_CROP)

    @property
    def augment(self) -> str:
        """The augmentation of its training images; older checkpoints use the published one."""
        return self.training.get("augment", "auto_augment_tf")

    @property
    def only_subnet(self) -> SubnetChoiceConfig | None:
        """The subnet that was trained alone, if one was."""
        encoding = self.training.get("subnet_choice")
        return SubnetChoiceConfig.from_str(encoding) if encoding else None

    @property
    def bn_eps(self) -> float:
        """The number that batch norm adds to the variance."""
        return self.training.get("bn_eps", 1e-5)

    @property
    def keeps_statistics(self) -> bool:
        """Whether batch norm has statistics that hold, as published weights have; others are calibrated."""
        return bool(self.training.get("keeps_statistics"))

    @property
    def any_resolution(self) -> bool:
        """Whether the file does not say which resolution its network is for: weights from elsewhere, of one network."""
        return bool(self.training.get("any_resolution"))

    @property
    def crop_size(self) -> int:
        """Size of loaded images in pixels; the network resizes them to a subnet's resolution."""
        return max(self.resolutions)


def checkpoint_folder(root: str | Path, config: SupernetConfig, align: bool = False) -> Path:
    """The folder of a supernet's files."""
    return Path(root) / f"{config.file_name}-align{int(align)}"


def weights_file(path: str | Path, config: SupernetConfig) -> Path:
    """`path`, or for "package" the file in the package for the network of `config`; UserError if there is none."""
    return package_weights(network_of(config.superspace)) if str(path) == PACKAGE else Path(path)


def find_checkpoint(resume: str | Path, config: SupernetConfig, quant_mode: bool, align: bool = False,
                    supernet: str = "") -> Path:
    """`resume` itself if it is a file, the file of the network's package for "package", otherwise the supernet's file
    in that folder.

    A published supernet has two folders there, that of its space and that of its name. The first one with a file
    counts. The name's comes first if `supernet`, as of `Network`, is the name.
    """
    named_like_a_file = Path(resume).suffix in {".pth", ".pt"} and not os.path.isdir(resume)  # errors name it, then
    if is_one_checkpoint(resume) or named_like_a_file:
        return weights_file(resume, config)
    folders = [checkpoint_folder(resume, config, align), *(Path(resume) / name for name in published_supernets(config))]
    folders.sort(key=lambda folder: folder.name != supernet)
    paths = [folder / ("lsq.pth" if quant_mode else "checkpoint.pth") for folder in folders]
    return next(filter(is_file, paths), paths[0])


def is_one_checkpoint(resume: str | Path) -> bool:
    """Whether `resume` is a file or "package", rather than a folder of checkpoints."""
    return str(resume) == PACKAGE or is_file(resume)


def holds_int8(path: str | Path) -> bool:
    """Whether a checkpoint is of an INT8 training; "package" is not. A published one is if any of its quantisers has
    learned. UserError if it is damaged."""
    if str(path) == PACKAGE:
        return False
    checkpoint = load_checkpoint(path)
    if "config" in checkpoint:
        return bool(checkpoint["config"].get("quant"))
    weights = checkpoint.get("state_dict", checkpoint)
    return _are_weights(weights) and has_trained_quantizers(weights)


def _are_weights(weights: object) -> bool:
    return isinstance(weights, dict) and all(isinstance(key, str) and isinstance(value, torch.Tensor)
                                             for key, value in weights.items())


def check_trained(record: ModelRecord, choice: SubnetChoiceConfig, path: str | Path) -> None:
    """UserError if the checkpoint `path` is of the training of one other subnet: layers and widths of `choice` that the
    other one does not have are random. Resolutions do not count."""
    only = record.only_subnet
    if only and only.stages != choice.stages:
        raise UserError(f"subnet {choice} of {str(path)!r}: only {only} was trained there")


def record_in(checkpoint: dict) -> ModelRecord | None:
    """The record in a checkpoint; None: a published file, or public weights. UserError if it is damaged."""
    return ModelRecord.from_dict(checkpoint["config"]) if "config" in checkpoint else None


def start_epsilon(checkpoint: dict) -> float | None:
    """The number that batch norm adds to the variance, in the training of the weights in `checkpoint`; None: the file
    does not tell."""
    if record := record_in(checkpoint):
        return record.bn_eps
    if is_published(checkpoint.get("state_dict", checkpoint)):
        return NORM_EPS
    form = find_form(checkpoint)
    return form.epsilon if form else None


def load_supernet(path: str | Path, config: SupernetConfig, quant_mode: bool) -> tuple[Supernet, ModelRecord]:
    """The supernet of a checkpoint, in the quantiser mode of its training, and its record.

    A file without a record is a published one. It has 1000 classes, the superspace's resolutions, and in int8 the
    published quantisers (float offset, codes from -128). Weights of Zen-NAS and of `public_weights` are taken too; they
    hold for any resolution.

    Raises:
        UserError: missing, damaged or foreign file; a space other than `config`; an fp32 file in int8 mode.
    """
    checkpoint = load_checkpoint(path)
    if "config" in checkpoint:
        record = ModelRecord.from_dict(checkpoint["config"], f"checkpoint {str(path)!r}")
        if record.supernet != str(config):
            raise UserError(f"checkpoint {str(path)!r} is of {record.supernet}, not of {config}")
        if quant_mode and record.quant is None:
            raise UserError(f"checkpoint {str(path)!r} is an fp32 one; --quant_mode needs the lsq.pth that "
                            "train_supernet.py --quant_mode writes")
    elif form := find_form(checkpoint):
        checkpoint, record = _foreign(checkpoint, form, config, quant_mode, path)
    else:
        record = _published_record(checkpoint, config, quant_mode)
    model = Supernet(config, len(record.classes), record.resolutions)
    model.subnets = replace(model.subnets, any_resolution=record.any_resolution)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = record.bn_eps
    if record.quant:
        record.quant.prepare(model)
    load_model_weights(model, checkpoint, path)
    if quant_mode:
        record.quant.apply(model)
    return model.eval(), record


def _published_record(checkpoint: dict, config: SupernetConfig, quant_mode: bool) -> ModelRecord:
    """The record of the network in a file without one."""
    weights, classes, training = checkpoint.get("state_dict", checkpoint), 1000, {}
    if is_published(weights):
        if quant_mode:
            raise UserError("a published Zen-NAS network is fp32; --quant_mode needs the lsq.pth that "
                            "train_supernet.py --quant_mode writes")
        classes, training = published_classes(weights), {"bn_eps": NORM_EPS, "any_resolution": True}
    return ModelRecord(str(config), config.space.resolutions, tuple(map(str, range(classes))),
                       quant=PUBLISHED_QUANT if quant_mode else None, training=training)


def _foreign(checkpoint: dict, form: Form, config: SupernetConfig, quant_mode: bool, path: str | Path
             ) -> tuple[dict, ModelRecord]:
    """A checkpoint and a record of public weights."""
    where = f"checkpoint {str(path)!r}"
    if quant_mode:
        raise UserError(f"{where} has {form.what} in fp32; --quant_mode needs the lsq.pth that train_supernet.py "
                        "--quant_mode writes")
    weights, classes = from_foreign(checkpoint, form, config, where), len(checkpoint[form.classifier])
    return {"state_dict": Supernet(config, classes).state_dict() | weights}, ModelRecord(
        str(config), config.space.resolutions, tuple(map(str, range(classes))), mean=form.mean, std=form.std,
        training={"keeps_statistics": True, "bn_eps": form.epsilon, "any_resolution": True})


def load_model_weights(model, checkpoint: dict, path: str | Path, keep: str | None = None) -> None:
    """`load_weights` of a supernet. It takes the weights of a published Zen-NAS network, and public weights, too."""
    weights = checkpoint.get("state_dict", checkpoint)
    if is_published(weights):
        structure = find_structure(model.config.superspace)
        if structure is None:
            raise UserError(f"checkpoint {str(path)!r} is of a Zen-NAS network, not of {model.config}")
        checkpoint = {"state_dict": from_published(weights, structure, model, path)}
    elif form := find_form(checkpoint):
        state = from_foreign(checkpoint, form, model.config, f"checkpoint {str(path)!r}")
        checkpoint = {"state_dict": model.state_dict() | state}
    load_weights(model, checkpoint, path, keep=keep)


def start_normalization(checkpoint: dict) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of the images that a checkpoint's network expects; None: the file does not tell."""
    if record := record_in(checkpoint):
        return record.mean, record.std
    form = find_form(checkpoint)
    return (form.mean, form.std) if form else None
