"""Several processes on this machine, for tests."""
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from modules.utils.files import REPOSITORY


def free_port() -> int:
    """A TCP port that nobody has: tests of two checkouts may run at once."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def run_script(*words, env: Mapping[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run Python with these words in the folder of the repository; `env` is added to the environment."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=REPOSITORY, env=os.environ | (env or {}), text=True,
                          capture_output=True, timeout=timeout)


def kill_when(process: subprocess.Popen, reached: Callable[[], bool], seconds: float = 120) -> None:
    """Kill a process without warning as soon as `reached()` is true; it must not have ended before."""
    until = time.monotonic() + seconds
    try:
        while not reached():
            assert process.poll() is None, f"ended with {process.returncode} before the moment of the kill"
            assert time.monotonic() < until, f"not there after {seconds} seconds"
            time.sleep(0.01)
    finally:
        process.kill()
        ended = process.wait()
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()
    assert ended == -signal.SIGKILL
