"""Runs the scripts of the pipeline in sequence, each finished step once."""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.processes import PARENT
from modules.utils.runs import Run

Command = Sequence  # a script, or "-m package", and its arguments


@dataclass(frozen=True)
class Step:
    """A part of the pipeline.

    Args:
        name: in the state and in printed lines.
        commands: a function that returns the scripts to run. It is called after all earlier steps and may read their
            files.
        side_by_side: `commands` gives sequences of scripts, which run beside each other.
    """

    name: str
    commands: Callable[[], Sequence[Command] | Sequence[Sequence[Command]]]
    side_by_side: bool = False


def run_steps(run: Run, identity: dict, state: dict, steps: Sequence[Step], threads: int = 1) -> None:
    """Run the steps that are not in `state["seconds"]`, each on `threads` threads of the CPU, which sequences that run
    side by side share. Write the time of each there.

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
        name = f"{step.name}, stopped"
        try:
            if step.side_by_side:
                _run_side_by_side(step.commands(), threads)
            else:
                for command in step.commands():
                    run_script(command, threads)
            name = step.name
        finally:  # what a stopped step took is part of the budget too
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - start, 1)
            run.write_state(identity, state)


def _run_side_by_side(sequences: Sequence[Sequence[Command]], threads: int) -> None:
    """One script of each sequence at a time, on a thread of its own at least. After a failure none is started."""
    failed, workers = threading.Event(), min(threads, len(sequences))

    def run_all(commands: Sequence[Command]) -> None:
        for command in commands:
            if failed.is_set():
                return
            try:
                run_script(command, threads // workers, at_once=workers > 1)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(run_all, commands) for commands in sequences]:
            done.result()


def run_script(command: Command, threads: int, at_once: bool = False) -> None:
    """Print and run one script on `threads` threads; its output is printed `at_once` when it ends, or as it comes. It
    ends with this process, also if that is killed. UserError if it fails."""
    words = [word for part in command[:1] for word in str(part).split()] + [str(word) for word in command[1:]]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    start = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads),
                   PARENT: str(os.getpid())}
    printed = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if at_once else {}
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, env=environment, **printed)
    if at_once:
        print(f"\noutput of {shlex.join(words)}\n{done.stdout}", end="", flush=True)
    if done.returncode == 130 or done.returncode == -2:
        raise KeyboardInterrupt
    if done.returncode:
        raise UserError(f"{words[0] if words[0] != '-m' else words[1]} ended with status {done.returncode}, its reason "
                        "is above; the same command with --resume goes on from here")
    print(f"({time.monotonic() - start:.0f} s)", flush=True)
