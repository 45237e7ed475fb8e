"""Devices that time models: this machine, a machine behind ssh, or a phone. Each is a `Device`."""
from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from modules.runtime import runner
from modules.runtime.device import Device, Times
from modules.runtime.phone.benchmark_model import PhoneRun
from modules.runtime.ssh import copy_to, ssh_command
from modules.utils.errors import UserError

REMOTE_RUNNER = ".cache/spaceevo/runner.py"  # from the home folder there


class RunnerDevice:
    """A device that runs `runner.py`: this machine, or one behind ssh. `command` starts the runner there."""

    def __init__(self, command: Sequence[str], where: str):
        self.command, self.where = list(command), where
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process; a pipe would fill up
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said)

    def describe(self) -> dict:
        return self._ask("describe")

    def open(self, name: str, content: bytes) -> None:
        self._ask("open", content, name=name)

    def close(self, names: Sequence[str]) -> None:
        self._ask("close", names=list(names))

    def time(self, names: Sequence[str], rounds: int) -> dict[str, Times]:
        reply = self._ask("time", names=list(names), rounds=rounds)
        return {name: Times(*(np.array(values[key]) for key in ("ms", "reference_ms")))
                for name, values in reply.items()}

    def peak_memory(self, content: bytes) -> float:
        fresh = RunnerDevice(self.command, self.where)  # a fresh process: a peak never falls
        try:
            fresh.describe()
            before = fresh._ask("memory")["mb"]
            fresh.open("model", content)
            return fresh._ask("memory")["mb"] - before
        finally:
            fresh.stop()

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # a request to a process that has ended
            self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.said.close()

    def _ask(self, what: str, content: bytes = b"", **request) -> dict:
        request = {"do": what, **request, **({"bytes": len(content)} if content else {})}
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n" + content)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None
        line = self.process.stdout.readline()
        if not line:
            raise self._lost()
        try:
            reply = json.loads(line)
        except ValueError:
            raise UserError(f"the runner on {self.where} answered {line[:200].decode(errors='replace').strip()!r}; "
                            "expected JSON. The shell there must print nothing when it starts") from None
        if "error" in reply:
            raise UserError(f"{self.where} could not {what} a model: {reply['error']}")
        return reply

    def _lost(self) -> UserError:
        status = self.process.wait()
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return UserError(f"the runner on {self.where} ended with status {status}"
                         f"{': ' + lines[-1][:200] if lines else ''}")


@dataclass(frozen=True)
class DeviceOptions:
    """How models run on a device, beside runtime, threads and batch size; named as the options of the profile.

    Args:
        cpus: cores to stay on, of this machine or one behind ssh; the last ones if empty.
        remote_python: the interpreter on a machine behind ssh; it needs numpy and the runtime.
        binary_dir, bin_name, taskset_mask, use_xnnpack: those of `PhoneRun`, on a phone.
    """

    cpus: tuple[int, ...] = ()
    remote_python: str = "python3"
    binary_dir: str = PhoneRun.binary_dir
    bin_name: str = PhoneRun.bin_name
    taskset_mask: str = PhoneRun.taskset_mask
    use_xnnpack: bool = PhoneRun.use_xnnpack


_ON_PHONE = ("binary_dir", "bin_name", "taskset_mask", "use_xnnpack")
_OPTIONS = {"local": ("cpus",), "ssh": ("cpus", "remote_python"), "adb": _ON_PHONE}  # that a kind of device has


def open_device(where: str, runtime: str, threads: int = 1, batch: int = 1,
                options: DeviceOptions | None = None) -> Device:
    """The device `where`, ready to open models; UserError if it cannot be reached or lacks the runtime, or for an
    option that such a device does not have.

    Args:
        where: "local", "ssh:[user@]host", "adb" or "adb:serial".
        runtime: onnxruntime, openvino or litert (on a phone litert only).
        threads, batch: of every run.
    """
    options, (kind, colon, name) = options or DeviceOptions(), where.partition(":")
    if kind not in _OPTIONS or (kind == "local" and colon):
        raise UserError(f"device {where!r}; expected local, ssh:[user@]host or adb[:serial]")
    for field in fields(options):
        if field.name not in _OPTIONS[kind] and getattr(options, field.name) != field.default:
            raise UserError(f"--{field.name} on device {where!r}; expected there: "
                            f"{', '.join(f'--{option}' for option in _OPTIONS[kind])}")
    if kind == "adb":
        return _open_phone(name, runtime, threads, batch, options)
    words = [runtime, "--threads", str(threads), "--batch", str(batch), "--cpus", *map(str, options.cpus)]
    if kind == "local":
        return RunnerDevice([sys.executable, runner.__file__, *words], "this machine")
    copy_to(name, runner.__file__, REMOTE_RUNNER)
    return RunnerDevice(ssh_command(name, [options.remote_python, "-u", REMOTE_RUNNER, *words]), name)


def _open_phone(serial: str, runtime: str, threads: int, batch: int, options: DeviceOptions) -> Device:
    from modules.runtime.phone.adb import Adb
    from modules.runtime.phone.device import PhoneDevice

    if runtime != "litert" or batch != 1:
        raise UserError(f"backend {runtime} and batch size {batch} on a phone; expected litert and 1")
    return PhoneDevice(Adb(serial), PhoneRun(
        num_threads=threads, **{name: getattr(options, name) for name in _ON_PHONE}))
