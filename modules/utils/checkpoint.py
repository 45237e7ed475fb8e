"""Checkpoints: written whole; nothing in them is executed when they are read."""
from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.utils.archives.inert import INERT_PICKLE
from modules.utils.archives.stored import check_stored_archive, is_zip
from modules.utils.errors import NotFinite, UserError, first_line, shorten
from modules.utils.files import atomic_write, fault_of_file
from modules.utils.json_files import MAX_DEPTH, check_form


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Write `state` to `path` atomically, if all its tensors are finite.

    Raises:
        NotFinite: a tensor has NaN or infinite values.
        OSError: the disk is full or cannot be written.
    """
    import torch

    for name, tensor in _tensors(state):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NotFinite(f"tensor {name!r} has become NaN or infinite")
    with atomic_write(path, "wb") as file:
        writer = _Writer(file)
        try:
            torch.save(state, writer)
        except RuntimeError:
            if writer.error:  # torch reports a full disk as a failed assertion
                raise writer.error from None
            raise


class _Writer:
    """A file that remembers why a write failed."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, content) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def load_checkpoint(path: str | Path, what: str = "checkpoint", form: dict | None = None, maker: str = "") -> dict:
    """Read a checkpoint onto the CPU; every checksum in it is compared, and every tensor must be finite.

    Published files also pickle their training arguments as objects; those become inert placeholders.

    Args:
        path: the file.
        what: the kind of file, in a message.
        form: keys that it must hold, and their forms (`check_form`).
        maker: the command that writes such a file, in the message of a missing one.

    Raises:
        UserError: it is missing, truncated, damaged, not a checkpoint, lacks a key, or holds a tensor that is not
            finite; the file and the member or tensor are named.
    """
    path, where = Path(path), f"{what} {str(path)!r}"
    if fault := fault_of_file(path):
        raise UserError(f"{where} {fault}; {f'make it with `{maker}`' if maker else 'train it first'}, or put a "
                        "published file there")
    if is_zip(path):
        check_stored_archive(path, where)
    content = _load(path, where)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{where} is not a checkpoint: it holds a {type(content).__name__}; expected named entries")
    for name, tensor in _tensors(content, where):
        _check_tensor(tensor, f"{where}: tensor {name!r}")
    known = {"config": dict} if "config" in content else {}
    return check_form(content, known | (form or {}), where)


def _load(path: Path, where: str):
    import torch

    for options in ({"weights_only": True}, {"weights_only": False, "pickle_module": INERT_PICKLE}):
        try:
            return torch.load(path, map_location="cpu", **options)
        except pickle.UnpicklingError as error:  # from the first reader: a name that no file of tensors needs
            failed = error
        except Exception as error:  # a damaged pickle can raise anything
            failed = error
            break
    raise UserError(f"{where} cannot be read ({first_line(failed)[:150]}); it is truncated or not a checkpoint"
                    ) from None


def _tensors(content: dict, where: str = "it") -> Iterator[tuple[str, object]]:
    """Every tensor in nested dicts, lists and tuples, once, with its keys joined by dots."""
    import torch

    pending, seen = [("", 0, content)], set()
    while pending:
        name, depth, value = pending.pop()
        if depth > MAX_DEPTH:
            raise UserError(f"{where} is nested too deeply; at most {MAX_DEPTH} levels are read")
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            pending.extend((f"{name}.{key}" if name else str(key), depth + 1, v) for key, v in inner)


def _check_tensor(tensor, where: str) -> None:
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UserError(f"{where} is no plain tensor of numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{where} has {tensor.numel()} values, of which the file holds fewer")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise UserError(f"{where} is not finite: {bad} of its {tensor.numel()} values are NaN or infinite; use an "
                        "earlier checkpoint")


def without_wrappers(weights: dict, model) -> dict:
    """`weights` without the "module." that data-parallel wrappers put before names, except where `model` has it."""
    own = model.state_dict().keys()
    return {key if key in own else re.sub(r"(^|\.)(?:module\.)+", r"\1", key): value for key, value in weights.items()}


def load_weights(model, checkpoint: dict, path: str | Path, what: str = "checkpoint",
                 keep: str | None = None) -> None:
    """Load a checkpoint's weights strictly into `model`; UserError that names the first differences otherwise.

    Accepts `state_dict` (supernets), `model` (block students, teachers) and prefixes left by data-parallel wrappers.
    The model keeps its own parameters and buffers whose names begin with `keep`.
    """
    weights = checkpoint.get("state_dict", checkpoint.get("model"))
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f"{what} {str(path)!r} has no 'state_dict' or 'model' with named tensors; it holds: "
                        f"{shorten(', '.join(checkpoint))}")
    weights = without_wrappers(weights, model)
    if keep:
        own = {key: value for key, value in model.state_dict().items() if key.startswith(keep)}
        weights = {key: value for key, value in weights.items() if not key.startswith(keep)} | own
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise UserError(f"{what} {str(path)!r} does not fit the network: {reason}") from None


def weights_digest(state: Mapping) -> str:
    """64 hex digits of the sha256 of a state dict of tensors. Running statistics are left out: those that are
    calibrated follow from the rest, up to rounding."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in state.items():
        if "running_" not in name:
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(name.encode() + content.numpy().tobytes())
    return digest.hexdigest()
