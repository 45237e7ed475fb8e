"""Timing on an Android phone, by TFLite's `benchmark_model` program through adb."""
from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.runtime.device import Times
from modules.runtime.phone.adb import Adb
from modules.runtime.phone.benchmark_model import PhoneRun, PhoneTimes, time_on_phone
from modules.runtime.runner import REFERENCE
from modules.utils.errors import UserError

ROUNDS_A_CALL = 4  # a call starts a program; the start alone takes longer than some rounds


class PhoneDevice:
    """A phone; `how` holds the place and settings of its `benchmark_model`. Models are TFLite files, batch 1."""

    def __init__(self, phone: Adb, how: PhoneRun):
        self.phone, self.how = phone, how
        self.paths: dict[str, str] = {}

    def describe(self) -> dict:
        """Model and processor of the phone; the program's name replaces the version of the runtime."""
        model, board = (self.phone.run(["getprop", name]).strip() for name in ("ro.product.model", "ro.board.platform"))
        return {"cpu": f"{model} ({board})", "cores": int(self.phone.run(["nproc"])), "system": "Android",
                "runtime": f"TFLite, {self.how.bin_name}, taskset {self.how.taskset_mask or 'none'}"}

    def open(self, name: str, content: bytes) -> None:
        """Copy a model to the phone."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"spaceevo_{hashlib.sha256(name.encode()).hexdigest()[:16]}.tflite"
            file.write_bytes(content)
            self.paths[name] = self.phone.push(file, self.how.binary_dir)

    def close(self, names: Sequence[str]) -> None:
        """Remove models from the phone."""
        self.phone.run(["rm", "-f", *(self.paths.pop(name) for name in names)])

    def time(self, names: Sequence[str], rounds: int) -> dict[str, Times]:
        """Run the program on the reference and on each model, in turns; a value is the mean over the runs of a call."""
        means: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(-(-rounds // ROUNDS_A_CALL)):
            for name in names:
                means[name].append((self._call(name).mean_ms, self._call(REFERENCE).mean_ms))
        return {name: Times(*np.array(values).T) for name, values in means.items()}

    def peak_memory(self, content: bytes) -> float:
        """Peak memory in MB, as printed by the program."""
        self.open("memory", content)
        memory = self._call("memory").memory_mb
        self.close(["memory"])
        if memory is None:
            raise UserError(f"{self.how.bin_name} does not tell its memory; leave --memory out")
        return memory

    def stop(self) -> None:
        """Remove all models from the phone."""
        if self.paths:
            self.close(list(self.paths))

    def _call(self, name: str) -> PhoneTimes:
        return time_on_phone(self.phone, self.paths[name], self.how)
