"""Commands and files on another machine through the `ssh` client, as lists of arguments."""
from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from modules.utils.errors import UserError


def ssh_command(host: str, arguments: Sequence[str]) -> list[str]:
    """The local command that runs `arguments` on `host` ([user@]name); UserError without ssh.

    It never asks for a password: a key or agent must be set up.
    """
    if not shutil.which("ssh"):
        raise UserError(f"ssh is not installed; it is needed to reach {host!r}")
    if not host or host.startswith("-"):
        raise UserError(f"host {host!r} for ssh; expected [user@]name")
    # ssh joins its arguments with spaces for the remote shell: they are quoted here.
    return ["ssh", "-o", "BatchMode=yes", "--", host, shlex.join(arguments)]


def copy_to(host: str, source: str | Path, target: str) -> None:
    """Copy the file `source` to `target` (a path from the home folder) on `host`; UserError if that fails."""
    folder = str(PurePosixPath(target).parent)
    script = f'mkdir -p {shlex.quote(folder)} && cat > {shlex.quote(target)}'
    done = subprocess.run(ssh_command(host, ["sh", "-c", script]), input=Path(source).read_bytes(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"cannot copy {Path(source).name} to {host!r} by ssh: {said[-1][:200]}")
