"""Devices that time models: this machine, a machine behind ssh, or a phone. Each is a `Device`."""
from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from modules.runtime import runner
from modules.runtime.device import Device, Times
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
        reply = json.loads(line)
        if "error" in reply:
            raise UserError(f"{self.where} could not {what} a model: {reply['error']}")
        return reply

    def _lost(self) -> UserError:
        status = self.process.wait()
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return UserError(f"the runner on {self.where} ended with status {status}"
                         f"{': ' + lines[-1][:200] if lines else ''}")


def open_device(where: str, runtime: str, threads: int = 1, batch: int = 1, cpus: Sequence[int] = (),
                python: str = "python3", phone: Mapping | None = None) -> Device:
    """The device `where`, ready to open models; UserError if it cannot be reached or lacks the runtime.

    Args:
        where: "local", "ssh:[user@]host", "adb" or "adb:serial".
        runtime: onnxruntime, openvino or litert (on a phone litert only).
        threads, batch: of every run.
        cpus: cores to stay on; the last ones if empty.
        python: the interpreter on a machine behind ssh; it needs numpy and the runtime.
        phone: fields of `PhoneRun` other than the number of threads.
    """
    kind, _, name = where.partition(":")
    options = [runtime, "--threads", str(threads), "--batch", str(batch), "--cpus", *map(str, cpus)]
    if where == "local":
        return RunnerDevice([sys.executable, runner.__file__, *options], "this machine")
    if kind == "ssh":
        copy_to(name, runner.__file__, REMOTE_RUNNER)
        return RunnerDevice(ssh_command(name, [python, "-u", REMOTE_RUNNER, *options]), name)
    if kind == "adb":
        return _open_phone(name, runtime, threads, batch, phone or {})
    raise UserError(f"device {where!r}; expected local, ssh:[user@]host or adb[:serial]")


def _open_phone(serial: str, runtime: str, threads: int, batch: int, phone: Mapping) -> Device:
    from modules.runtime.phone.adb import Adb
    from modules.runtime.phone.benchmark_model import PhoneRun
    from modules.runtime.phone.device import PhoneDevice

    if runtime != "litert" or batch != 1:
        raise UserError(f"backend {runtime} and batch size {batch} on a phone; expected litert and 1")
    return PhoneDevice(Adb(serial), PhoneRun(num_threads=threads, **phone))
