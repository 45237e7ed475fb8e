"""What every command line shares: how errors and interrupts end a script, and arguments that launchers add."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from modules.utils.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Call `main()`. A UserError becomes one line on stderr and exit status 2, Ctrl-C exit status 130."""
    try:
        main()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help shows the script's docstring as written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   allow_abbrev=False)


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """Accept the flag `torch.distributed.launch` adds; the environment's LOCAL_RANK wins over it."""
    parser.add_argument("--local_rank", "--local-rank", type=int, default=-1, help="set by torch.distributed.launch")
