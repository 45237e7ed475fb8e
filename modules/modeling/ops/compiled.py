"""The modules of loops that numba compiles, where it is installed."""
from __future__ import annotations

import functools
import importlib
from types import ModuleType


@functools.cache
def compiled(name: str) -> ModuleType | None:
    """The module `name` of this folder; None without numba, or without a folder for compiled loops."""
    try:
        return importlib.import_module(f"{__package__}.{name}")
    except (ImportError, RuntimeError):
        return None
