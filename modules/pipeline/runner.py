"""Runs the scripts of the pipeline in sequence, each finished step once."""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.runs import Run

Command = Sequence  # a script, or "-m package", and its arguments


@dataclass(frozen=True)
class Step:
    """A part of the pipeline.

    Args:
        name: in the state and in printed lines.
        commands: a function that returns the scripts to run. It is called after all earlier steps and may read their
            files.
    """

    name: str
    commands: Callable[[], Sequence[Command]]


def run_steps(run: Run, identity: dict, state: dict, steps: Sequence[Step], threads: int = 1) -> None:
    """Run the steps that are not in `state["seconds"]`, each on `threads` threads of the CPU. Write the time of
    each there.

    Raises:
        UserError: a script ended with an error.
    """
    seconds = state.setdefault("seconds", {})
    for number, step in enumerate(steps, 1):
        if step.name in seconds:
            print(f"\n== {number}/{len(steps)} {step.name}: done before", flush=True)
            continue
        print(f"\n== {number}/{len(steps)} {step.name}", flush=True)
        start = time.monotonic()
        for command in step.commands():
            run_script(command, threads)
        seconds[step.name] = round(time.monotonic() - start, 1)
        run.write_state(identity, state)


def run_script(command: Command, threads: int) -> None:
    """Print and run one script on `threads` threads; UserError if it fails."""
    words = [word for part in command[:1] for word in str(part).split()] + [str(word) for word in command[1:]]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    start = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, env=environment)
    if done.returncode == 130 or done.returncode == -2:
        raise KeyboardInterrupt
    if done.returncode:
        raise UserError(f"{words[0] if words[0] != '-m' else words[1]} ended with status {done.returncode}, its reason "
                        "is above; the same command with --resume goes on from here")
    print(f"({time.monotonic() - start:.0f} s)", flush=True)
