"""Lines for the user that are printed once, by one process."""
from __future__ import annotations

import os
import sys

_said: set[str] = set()


def print_once(line: str, file=None) -> None:
    """Print `line` to stdout or `file`, on the first process, unless this run has printed it before."""
    if line not in _said and _is_first():
        _said.add(line)
        print(line, file=file, flush=True)


def _is_first() -> bool:
    if os.environ.get("RANK", "0") != "0":  # given by torchrun, before the processes know each other
        return False
    if "torch" not in sys.modules:  # then no process group either; --help does not load it
        return True
    from modules.utils import dist

    return dist.rank() == 0


def say(note: str) -> None:
    """Print on stderr, once, something that was assumed or passed over."""
    print_once(f"note: {note}", sys.stderr)
