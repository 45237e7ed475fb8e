"""TFLite's `benchmark_model` program on a phone: its command line and its output."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from modules.runtime.phone.adb import Adb
from modules.utils.errors import UserError

# The last line of this form is for the measured runs; a line before it is for the warm-up.
_RUNS = re.compile(r"\bcount=([0-9]{1,9})\b.*?\bavg=([\d.e+]+)\s+std=([\d.e+]+)")
_MEMORY = re.compile(r"Memory footprint delta[^:]*:.*?\boverall=([\d.]+)")


@dataclass(frozen=True)
class PhoneRun:
    """Settings of `benchmark_model`. `taskset_mask` is the hexadecimal mask of the cores to stay on; empty: any."""

    binary_dir: str = "/data/local/tmp"
    bin_name: str = "benchmark_model_plus_flex_r27"
    taskset_mask: str = "70"
    num_threads: int = 1
    num_runs: int = 10
    warmup_runs: int = 10
    use_xnnpack: bool = False

    def command(self, model: str) -> list[str]:
        """The arguments that time the model file `model` on the phone."""
        stay = ["taskset", self.taskset_mask] if self.taskset_mask else []
        return [*stay, str(PurePosixPath(self.binary_dir) / self.bin_name), f"--graph={model}",
                f"--num_threads={self.num_threads}", f"--num_runs={self.num_runs}",
                f"--warmup_runs={self.warmup_runs}", f"--use_xnnpack={str(self.use_xnnpack).lower()}"]


@dataclass(frozen=True)
class PhoneTimes:
    """Mean and standard deviation of the latency in milliseconds, number of runs, and the memory of the program in MB
    of 10^6 bytes (None: not printed)."""

    mean_ms: float
    std_ms: float
    runs: int
    memory_mb: float | None = None


def parse_output(text: str) -> PhoneTimes:
    """The times in the output of `benchmark_model`, which counts in microseconds and in MB of 2^20 bytes. UserError if
    there are none."""
    runs = _RUNS.findall(text)
    if not runs:
        lines = text.strip().splitlines() or ["nothing"]
        raise UserError(f"benchmark_model printed no line with count=, avg= and std=; its last line: {lines[-1][:200]}")
    count, mean, std = runs[-1]
    memory = _MEMORY.search(text)
    return PhoneTimes(float(mean) / 1e3, float(std) / 1e3, int(count),
                      float(memory[1]) * 2**20 / 1e6 if memory else None)


def time_on_phone(phone: Adb, model: str, how: PhoneRun) -> PhoneTimes:
    """Time the model file `model` of the phone, once."""
    return parse_output(phone.run(how.command(model), errors=True))
