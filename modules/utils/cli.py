"""What every command line shares: how errors and interrupts end a script, and arguments that launchers add."""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from modules.utils.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Call `main()` and see to how the script ends.

    A UserError and an error of the system (disk full, read-only, no permission, a file where a folder should be) become
    one line on stderr and exit status 2, Ctrl-C one line and 130. Where the reader of the output went away, as `head`
    does, the script ends without a word, with status 141.
    """
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _end(f"error: {error}", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit would fail again
        sys.exit(141)
    except OSError as error:
        _end(f"error: {describe(error)}", 2)


def describe(error: OSError) -> str:
    """An error of the system with the file that it is about, such as `'out/a.pth': No space left on device`."""
    name = error.filename2 or error.filename
    return f"{str(name)!r}: {error.strerror or error}" if name else error.strerror or str(error) or type(error).__name__


def _end(reason: str, status: int) -> None:
    print(f"{Path(sys.argv[0]).name}: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(status)


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help shows the script's docstring as written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   allow_abbrev=False)


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """Accept the flag `torch.distributed.launch` adds; the environment's LOCAL_RANK wins over it."""
    parser.add_argument("--local_rank", "--local-rank", type=int, default=-1, help="set by torch.distributed.launch")
