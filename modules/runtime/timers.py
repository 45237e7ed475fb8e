"""Timers of model files: what all have, and those of TFLite files on this machine or on a phone."""
from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from modules.runtime.phone.adb import Adb
from modules.runtime.phone.benchmark_model import PhoneRun, time_on_phone
from modules.runtime.session import Session
from modules.utils.errors import UserError
from modules.utils.files import fault_of_file


@dataclass(frozen=True)
class Measured:
    """Latency and its spread in milliseconds, peak memory in MB (None: not known), and the program that ran it (empty:
    the conditions tell)."""

    ms: float
    spread_ms: float
    memory_mb: float | None
    engine: str = ""


class Timer(Protocol):
    """A way to time files."""

    def describe(self) -> dict[str, object]:
        """The conditions, such as threads and processor, by name."""

    def measure(self, models: Mapping[Hashable, Path | Session]) -> dict[Hashable, Measured]:
        """Time the files, by any names; some timers take opened ones too."""


@dataclass(frozen=True)
class LocalTimer:
    """LiteRT on this machine: medians, and half the distance between the 10th and 90th percentile."""

    threads: int = 1
    runs: int = 100
    warmup: int = 20

    def describe(self) -> dict[str, object]:
        """The number of threads, the processor, and the version of the runtime."""
        from importlib.metadata import version

        from modules.runtime.litert import litert_schema
        from modules.utils.files import machine

        litert_schema()  # checks that it is installed
        return {"threads": self.threads, "cpu": machine()["cpu"],
                "runtime": f"ai-edge-litert {version('ai-edge-litert')}"}

    def measure(self, models: Mapping[Hashable, Path]) -> dict[Hashable, Measured]:
        """Time the files, in turns."""
        from modules.runtime.engines import engines
        from modules.runtime.session import summarize, time_interleaved

        litert = engines["litert"]
        sessions = {name: litert.open(path, self.threads) for name, path in models.items()}
        times = time_interleaved(sessions, self.runs, self.warmup)
        return {name: Measured(*summarize(times[name]), litert.peak_memory_mb(path, self.threads),
                               str(sessions[name].delegation())) for name, path in models.items()}


@dataclass(frozen=True)
class PhoneTimer:
    """`benchmark_model` on a phone: means and standard deviations."""

    phone: Adb
    how: PhoneRun
    skip_push: bool = False

    def describe(self) -> dict[str, object]:
        """The number of threads, the phone, the cores that the program stays on, and the program."""
        name = self.phone.run(["getprop", "ro.product.model"]).strip()
        cores = f", cores {self.how.taskset_mask}" if self.how.taskset_mask else ""
        return {"threads": self.how.num_threads, "cpu": f"{name}{cores}", "runtime": self.how.bin_name}

    def measure(self, models: Mapping[Hashable, Path]) -> dict[Hashable, Measured]:
        """Copy the files to the phone, unless they are there already, and time one after the other. UserError for files
        of one name that are to be there already: it is one file there."""
        names = [path.name for path in models.values()]
        if self.skip_push and len(set(names)) < len(names):
            again = next(name for i, name in enumerate(names) if name in names[:i])
            raise UserError(f"two files called {again!r} with --skip_push, of which the phone has one")
        return {name: self._time(path) for name, path in models.items()}

    def _time(self, path: Path) -> Measured:
        if self.skip_push:
            remote = str(PurePosixPath(self.how.binary_dir) / path.name)
        else:
            if fault := fault_of_file(path):
                raise UserError(f"model {str(path)!r} {fault}; tflite_tools/export_tflite.py writes models")
            remote = self.phone.push(path, self.how.binary_dir)
        times = time_on_phone(self.phone, remote, self.how)
        return Measured(times.mean_ms, times.std_ms, times.memory_mb,
                        "XNNPACK" if self.how.use_xnnpack else "TFLite kernels")
