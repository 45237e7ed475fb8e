"""Running the scripts of the demo."""
from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY


def run_script(name: str, *arguments) -> None:
    """Print and run one script (`-m package` too); UserError if it fails."""
    command = [*name.split(), *map(str, arguments)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    start = time.monotonic()
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    if done.returncode:
        raise UserError(f"the demo stopped: {name} ended with status {done.returncode}")
    print(f"({time.monotonic() - start:.0f} s)", flush=True)


def read_rows(path: Path) -> list[dict]:
    """The rows of a csv file with a header."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
