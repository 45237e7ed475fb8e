"""Commands and files on an Android phone through the `adb` client, as lists of arguments."""
from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modules.utils.errors import UserError


@dataclass(frozen=True)
class Adb:
    """A phone: the one with this serial number, or the only connected one."""

    serial: str = ""

    def push(self, source: str | Path, folder: str) -> str:
        """Copy a file into `folder` on the phone and return its path there; UserError if that fails."""
        target = str(PurePosixPath(folder) / Path(source).name)
        self._call(["push", str(source), target], f"copy {Path(source).name}")
        return target

    def run(self, arguments: Sequence[str], errors: bool = False) -> str:
        """Run a program on the phone and return its output, with `errors` that on stderr too, where adb itself writes
        as well; UserError if it fails."""
        # adb joins its arguments with spaces for the phone's shell: they are quoted here.
        done = self._call(["shell", shlex.join(arguments)], f"run {PurePosixPath(arguments[0]).name}")
        return done.stdout + done.stderr if errors else done.stdout

    def _call(self, arguments: Sequence[str], what: str) -> subprocess.CompletedProcess[str]:
        if not shutil.which("adb"):
            raise UserError("adb is not installed; it is needed to reach a phone (Android SDK platform-tools)")
        chosen = ["-s", self.serial] if self.serial else []
        done = subprocess.run(["adb", *chosen, *arguments], capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise UserError(f"cannot {what} on the phone {self.serial or '(the only one)'!r}: {said[-1][:200]}")
        return done
