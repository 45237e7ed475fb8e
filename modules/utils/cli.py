"""Parts of every command line: the end of a script after an error or an interrupt, and arguments that launchers add."""
from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from modules.utils.errors import UserError, nearest
from modules.utils.notes import say
from modules.utils.processes import PARENT, end_with_parent
from modules.utils.settings import Setting


def run(main: Callable[[], None]) -> None:
    """Call `main()`, and end the script in one of these ways. A script that another one started (PARENT) also ends when
    that one is killed.

    A UserError, an error of the system (disk full, read-only, no permission, a file where a folder should be) and a
    lack of memory become one line on stderr and exit status 2. Ctrl-C gives one line and status 130. A reader of the
    output that goes away, as `head` does, gives no line and status 141.
    """
    if parent := os.environ.pop(PARENT, ""):
        end_with_parent(int(parent))
    _print_anything()
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
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        asked = re.search(r"allocate \d[\d.]* (bytes|[KMGTPE]?i?B)", str(error))
        _end(f"error: out of memory{f' (tried to {asked[0]})' if asked else ''}; a smaller batch or resolution, or "
             "fewer workers, need less", 2)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy, torch (on the processor: a RuntimeError; on a GPU: its subclass) or onnxruntime found no
    memory."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(
        text in str(error) for text in ("DefaultCPUAllocator", "Failed to allocate memory for requested buffer"))


def describe(error: OSError) -> str:
    """An error of the system with its file, such as `'out/a.pth': No space left on device`."""
    name = error.filename2 or error.filename
    return f"{str(name)!r}: {error.strerror or error}" if name else error.strerror or str(error) or type(error).__name__


def _program() -> str:
    """The command in the user's words: `search_subnet.py`, or `python -m modules.pipeline` for a package."""
    path, spec = Path(sys.argv[0]), getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.parent}" if path.name == "__main__.py" and spec else path.name


def _end(reason: str, status: int) -> None:
    print(f"{_program()}: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(status)


def _print_anything() -> None:
    r"""Print letters that the terminal's encoding lacks as \xe9, instead of ending the script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are UserErrors."""

    def error(self, message: str):
        """Raise UserError."""
        raise UserError(f"{message} (--help lists the options)")

    def parse_args(self, args=None, namespace=None):
        """As in argparse; the refusal of an unknown option names the nearest one."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            near = nearest(rest[0].split("=")[0], self._option_string_actions)
            self.error(f"unknown argument {' '.join(rest)}" + (f", nearest: {near}" if near else ""))
        return found


def make_parser(doc: str) -> Parser:
    """A parser whose help shows the script's docstring as written."""
    return Parser(prog=_program(), description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                  allow_abbrev=False)


def given_options(args, parser: argparse.ArgumentParser, names: Iterable[str]) -> list[str]:
    """Those of the options `names` that differ from their defaults."""
    return [name for name in names if getattr(args, name) != parser.get_default(name)]


def say_unused(args, parser: argparse.ArgumentParser, names: Iterable[str], why: str) -> None:
    """A line for each of the options `names` that is given: it has no effect, for the reason `why`."""
    for name in given_options(args, parser, names):
        say(f"--{name} has no effect {why}")


def add_run_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """`--resume` and `--overwrite` of a script that makes `what`, such as "search"."""
    parser.add_argument("--resume", action="store_true", help=f"continue the earlier {what}")
    parser.add_argument("--overwrite", action="store_true", help=f"replace the earlier {what}")


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """Accept the flag `torch.distributed.launch` adds; the environment's LOCAL_RANK wins over it."""
    Setting(-1, "number of this process on its machine, set by torch.distributed.launch", low=0, high=4095,
            aliases=("--local-rank",), shown="LOCAL_RANK of the environment, or one process").add_to(
                parser, "--local_rank")
