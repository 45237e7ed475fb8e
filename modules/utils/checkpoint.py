"""Checkpoints: written whole, read without executing anything that is in them."""
from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

from modules.utils.errors import UserError
from modules.utils.files import atomic_write


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Write `state` to `path` atomically."""
    import torch

    with atomic_write(path, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: str | Path, what: str = "checkpoint") -> dict:
    """Read a checkpoint onto the CPU; UserError if it is missing, truncated or not a checkpoint.

    Published files also pickle their training arguments as objects; those become inert placeholders.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {str(path)!r} does not exist; train it first, or put a published file there")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        reader = SimpleNamespace(__name__="pickle", Unpickler=_InertUnpickler, load=_inert_load)
    except (RuntimeError, EOFError, OSError) as error:
        raise _unreadable(what, path, error) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
    except Exception as error:  # a damaged pickle can raise anything
        raise _unreadable(what, path, error) from None


def _unreadable(what: str, path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{what} {str(path)!r} cannot be read ({reason[:150]}); it is truncated or not a checkpoint")


def load_weights(model, checkpoint: dict, path: str | Path, what: str = "checkpoint",
                 keep: str | None = None) -> None:
    """Load a checkpoint's weights strictly into `model`; UserError that names the first differences otherwise.

    Accepts `state_dict` (supernets), `model` (block students, teachers) and prefixes left by data-parallel wrappers.
    Of parameters and buffers whose names begin with `keep` the model keeps its own.
    """
    weights = checkpoint.get("state_dict", checkpoint.get("model"))
    if not isinstance(weights, dict):
        raise UserError(f"{what} {str(path)!r} has no 'state_dict' or 'model'; it holds: {', '.join(checkpoint)}")
    weights = {key.replace("module.", ""): value for key, value in weights.items()}
    if keep:
        own = {key: value for key, value in model.state_dict().items() if key.startswith(keep)}
        weights = {key: value for key, value in weights.items() if not key.startswith(keep)} | own
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise UserError(f"{what} {str(path)!r} does not fit the network: {reason}") from None


def check_not_written(path: Path, goes_on: bool, overwrite: bool, option: str) -> None:
    """UserError if there is a file `path` that a run neither goes on from nor may overwrite; `option` names the folder
    it writes to."""
    if path.exists() and not (goes_on or overwrite):
        raise UserError(f"{str(path)!r} exists; continue it with --resume, replace it with --overwrite, or give "
                        f"another {option}")


def check_same_settings(before: dict, now: dict, free: set[str], path: str | Path) -> None:
    """UserError if a run that resumes `path` would change a setting, other than those named `free`."""
    for name, value in now.items():
        if name not in free and name in before and _plain(before[name]) != _plain(value):
            raise UserError(f"{name} was {before[name]!r} when {str(path)!r} was written and is {value!r} now; a "
                            "resumed run keeps its settings")


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


# What a file of tensors needs; every other name in the pickle becomes a placeholder.
_ALLOWED = {
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32",
                                   "int64", "bool")),
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        return type(name, (_Placeholder,), {"__module__": module})


def _inert_load(file, **kwargs):
    return _InertUnpickler(file, **kwargs).load()


class _Placeholder:
    """Stands for an object of a foreign file: keeps the state it was pickled with, runs none of its code."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        self.args, self.items = args, []

    def __setstate__(self, state):
        self.__dict__["state"] = state

    def __setitem__(self, key, value):
        self.__dict__.setdefault("items", []).append((key, value))

    def append(self, value):
        """Keep a list item."""
        self.__dict__.setdefault("items", []).append(value)

    def extend(self, values):
        """Keep several list items."""
        self.__dict__.setdefault("items", []).extend(values)

    def __hash__(self):
        return id(self)
