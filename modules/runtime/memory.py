"""Peak memory of a piece of work, measured in a process of its own."""
from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_mb(work: Callable, *args, modules: tuple[str, ...] = ()) -> float | None:
    """Peak resident memory in MB (10^6 bytes) that `work(*args)` adds in a fresh process.

    `modules` are imported before: their own memory does not count. `work` must be a function of a module, since the
    process imports it. None on systems other than Linux.
    """
    if not _STATUS.is_file():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_gained, modules, work, args).result()


def _gained(modules, work, args) -> float:
    import importlib

    for name in modules:
        importlib.import_module(name)
    before = _resident("VmRSS")
    work(*args)
    return (_resident("VmHWM") - before) / 1e6


def _resident(field: str) -> int:
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.M)[1])
