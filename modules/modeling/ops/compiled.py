"""The modules of loops that numba compiles, where it is installed, and the arrays that they take."""
from __future__ import annotations

import functools
import importlib
from types import ModuleType

import numpy as np
import torch


@functools.cache
def compiled(name: str) -> ModuleType | None:
    """The module `name` of this folder; None without numba, or without a folder for compiled loops."""
    try:
        return importlib.import_module(f"{__package__}.{name}")
    except (ImportError, RuntimeError):
        return None


def array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of `tensor`, on a CPU; bf16 as its bits, uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The elements of a dense `tensor` in the order of its memory, (numel,), as of `array`."""
    values = array(tensor)
    if not values.flags.c_contiguous:  # the channels are last: (N, C, H, W) lies as (N, H, W, C)
        values = values.transpose(0, 2, 3, 1)
    return values.reshape(-1)
