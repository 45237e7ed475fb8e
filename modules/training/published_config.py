"""Yaml files of the published SpaceEvo: each key gets its name here, or is refused."""
from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from modules.utils.errors import UserError, shorten

RENAMED = {"dataset_dir": "dataset_path"}
# Nested settings, as published: the name of each inside.
NESTED = {"optimizer": {"method": "optimizer", "momentum": "momentum", "nesterov": "nesterov"},
          "lr_scheduler": {"method": "schedule", "base_lr": "base_lr", "clamp_lr_percent": "clamp_lr_percent"}}
SCHEDULES = {"warmup_cosine_lr": "cosine", "warmup_linear_lr": "linear"}
# Keys without a setting here: the value that changes nothing (None: any), and the setting here for other values.
WITHOUT_SETTING = {
    "sandwich_rule": (True, "subnet_choice trains one subnet alone"),
    "distributed": (None, "torchrun starts the processes"),
    "multiprocessing_distributed": (None, "torchrun starts the processes"),
    "dist_backend": (None, "nccl on GPUs, gloo on CPUs"),
    "start_epoch": (0, "the option --resume continues a run"),
    "resume": ("", "the option --resume continues a run; init_checkpoint names a file to start from"),
    "debug": ("", "debug_batches alone stops every epoch early"),
}
# Keys that the published code never reads. Its real recipe is the defaults here.
UNREAD = ("bn_momentum", "bn_eps", "drop_last", "n_classes", "dataset", "sync_bn")


def translate(content: Mapping, source: str) -> dict:
    """The content of a training yaml under our names.

    Args:
        content: of the file.
        source: the file's name, for errors.

    Raises:
        UserError: a value with another effect than here; the setting here is named.
    """
    content = {RENAMED.get(key, key): value for key, value in content.items()}
    if not is_published(content):
        return content
    found, passed_over = {}, []
    for key, value in content.items():
        if key in NESTED and isinstance(value, Mapping):
            found |= _nested(key, value, source)
        elif key in WITHOUT_SETTING:
            neutral, here = WITHOUT_SETTING[key]
            if neutral is not None and bool(value) != bool(neutral):
                raise UserError(f"{source}: {key} {shorten(value)} is no setting here: {here}")
        elif key in UNREAD:
            passed_over.append(f"{key} {shorten(value)}")
        else:
            found[key] = value
    if "debug" in content:
        found.pop("debug_batches", None)  # they act in debug mode only
    if passed_over and os.environ.get("RANK", "0") == "0":
        print(f"{source}: passed over, for the published code never read them: {', '.join(passed_over)}",
              file=sys.stderr)
    return found


def is_published(content: Mapping) -> bool:
    """Whether a training yaml has the published form."""
    return any(key in WITHOUT_SETTING or (key in NESTED and isinstance(content[key], Mapping)) for key in content)


def _nested(key: str, values: Mapping, source: str) -> dict:
    names = NESTED[key]
    for name in values:
        if name not in names:
            raise UserError(f"unknown setting in {source}: {key}: {shorten(name)}; allowed: {', '.join(names)}")
    found = {names[name]: value for name, value in values.items()}
    if isinstance(found.get("schedule"), str):  # of other kinds the settings refuse all
        found["schedule"] = SCHEDULES.get(found["schedule"], found["schedule"])
    return found
