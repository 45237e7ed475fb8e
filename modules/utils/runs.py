"""A run that can be killed and continued: its folder, the lock on it, and the state that it continues from."""
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from modules.utils.errors import UserError
from modules.utils.files import atomic_write, remove_stale_temporaries
from modules.utils.json_files import parse_json
from modules.utils.processes import LOCK_FILE, FolderLock
from modules.utils.text import decode_text, read_bytes

STATE_FILE = "state.json"  # of the searches
MAX_STATE = 1 << 30  # bytes


class Run:
    """One run and its folder, which no other run can use while this context is open.

        with Run(folder / "state.json", logs=("search.log",), resume=args.resume, overwrite=args.overwrite,
                 option="--output_dir") as run:
            state = run.read_state(identity) if run.continues else {}
            ...                                  # everything that may be refused
            run.begin(state.get("logs"))
            ...                                  # work; from time to time run.write_state(identity, {...})

    With several processes, all open it; the first one looks, locks and writes.

    Args:
        path: the file that makes the folder hold a run: a checkpoint, or the state.
        logs: files, or folders of files, beside it that the run appends to (patterns).
        files: other files that it writes there (patterns). A run that starts afresh removes logs and files.
        resume: continue the run that is there; if there is none, say so and start.
        overwrite: start afresh, even if a run is there.
        option: the command line's name of the folder, for the refusal.

    Attributes:
        found: whether there is an earlier run.
        continues: whether this one goes on with it.

    Raises:
        UserError: on entering: a run is there and neither `resume` nor `overwrite` is set, or both are; another
            process uses the folder.
    """

    def __init__(self, path: str | Path, *, logs: Iterable[str] = (), files: Iterable[str] = (), resume: bool,
                 overwrite: bool, option: str):
        self.path, self.logs, self.files = Path(path), tuple(logs), tuple(files)
        self.resume, self.overwrite, self.option = resume, overwrite, option
        self.found = self.continues = False
        self._lock = FolderLock(self.path.parent)

    def __enter__(self) -> Run:
        self._open()
        _say_which_start([self])
        return self

    def __exit__(self, *_) -> None:
        self._lock.release()

    def _open(self) -> None:
        outcome = None
        if _is_first():
            try:
                outcome = self._enter()
            except UserError as error:
                self._lock.release()
                outcome = error
        outcome = _agreed(outcome)
        if isinstance(outcome, UserError):
            raise outcome
        self.found = outcome
        self.continues = self.found and self.resume

    def _enter(self) -> bool:
        if self.resume and self.overwrite:
            raise UserError("--resume continues a run and --overwrite replaces it; give one of them")
        self._lock.take()
        found = self.path.is_file()
        if found and not (self.resume or self.overwrite):
            raise UserError(f"{str(self.path)!r} exists; continue it with --resume, replace it with --overwrite, or "
                            f"give another {self.option}")
        remove_stale_temporaries(self.path.parent)
        return found

    # -- files ------------------------------------------------------------------------------------------------------

    def begin(self, sizes: dict[str, int] | None = None) -> None:
        """Call this when nothing can be refused any more. A run that starts afresh removes the files of an earlier one.
        A run that continues cuts its logs back to `sizes`, as `log_sizes` gave them when the state was written. With
        several processes, the first one does this and the others do not wait."""
        if _is_first():
            if not self.continues:
                self.path.unlink(missing_ok=True)  # first, so that a kill in between leaves no run rather than half
                self._remove(path for pattern in (*self.logs, *self.files) for path in self._matching(pattern))
            elif sizes is not None:
                self._cut_back(sizes)

    def check_unclaimed(self) -> None:
        """UserError if there is no earlier run, but one of the `files` that a fresh one would remove: it is someone
        else's. For runs that write their state before these files. With `overwrite` it is removed."""
        if _is_first() and not (self.found or self.overwrite):
            for path in (path for pattern in self.files for path in self._matching(pattern)):
                raise UserError(f"{str(path)!r} is there, but no {self.path.name} of a run that made it; give another "
                                f"{self.option}, or let --overwrite remove it")

    def log_sizes(self) -> dict[str, int]:
        """Bytes in each log now; to be kept in the state."""
        return {path.relative_to(self.path.parent).as_posix(): path.stat().st_size for path in self._logs()}

    def _matching(self, pattern: str) -> list[Path]:
        return [path for path in self.path.parent.glob(pattern) if path.name != LOCK_FILE]

    def _logs(self) -> list[Path]:
        found = [path for pattern in self.logs for path in self._matching(pattern)]
        return [file for path in found for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]

    def _cut_back(self, sizes: dict[str, int]) -> None:
        for path in self._logs():
            size = sizes.get(path.relative_to(self.path.parent).as_posix(), 0)
            if path.stat().st_size > size:
                os.truncate(path, size)

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    # -- state ------------------------------------------------------------------------------------------------------

    def check_same(self, before: dict, now: dict, free: Collection[str] = ()) -> None:
        """UserError if a setting was another one `before`; it names the first. Settings named `free`, and those that
        `before` does not have, are passed over."""
        for name, old, new in differences(before, now):
            if name not in free:
                raise UserError(f"{name} was {old!r} when {str(self.path)!r} was written and is {new!r} now; a "
                                "continued run keeps its settings")

    def read_state(self, identity: dict, newer: dict = {}) -> dict:  # noqa: B006 - only read
        """The state that `write_state` kept; all its numbers are finite. `newer` has the values, in states of before,
        of settings that they lack.

        Raises:
            UserError: it is damaged, or of a run of another `identity`.
        """
        state = self.read_json({"identity": {name: object for name in identity if name not in newer}})
        self.check_same(newer | state["identity"], identity)
        return state

    def write_state(self, identity: dict, state: dict) -> None:
        """Keep `state` (plain values) and the settings that it depends on, atomically."""
        self.write_json({"identity": identity, **state})

    def read_json(self, form=dict) -> dict:
        """The contents of the file, which have `form` (see `check_form`). UserError if it is damaged."""
        content = read_bytes(self.path, "state", MAX_STATE)
        with self.reading():
            return parse_json(decode_text(content, "it"), "it", form)

    def write_json(self, values) -> None:
        """Write the file atomically."""
        text = json.dumps(values)  # dumps, not dump: that one encodes in Python, item by item
        with atomic_write(self.path) as file:
            file.write(text)

    @contextmanager
    def reading(self):
        """Errors of the body, which takes values out of the state, become the UserError of a damaged file."""
        try:
            yield
        except KeyError as error:
            raise self._damaged(f"it has no {error}") from None
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, UserError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{str(self.path)!r} is damaged ({why[:200]}); put back a copy of it, or start afresh with "
                         "--overwrite")


@contextmanager
def open_all(runs: Sequence[Run]):
    """Open several runs, so that a refusal of one comes before the work on another. One line names what starts."""
    with ExitStack() as opened:
        for run in runs:
            run._open()
            opened.push(run)
        _say_which_start(runs)
        yield


def check_free(runs: Iterable[Run]) -> None:
    """UserError if one of `runs`, which open later one after the other, would be refused now."""
    for run in runs:
        try:
            run._open()
        finally:
            run._lock.release()


def _say_which_start(runs: Sequence[Run]) -> None:
    """One line about the runs that --resume found nothing of."""
    fresh = [run for run in runs if run.resume and not run.found]
    if fresh and _is_first():
        others = f" (and {len(fresh) - 1} more of {len(runs)})" if len(fresh) > 1 else ""
        print(f"--resume: no {str(fresh[0].path)!r}{others} yet, starting", flush=True)


def differences(before: dict, now: dict) -> Iterator[tuple[str, object, object]]:
    """(name, old, new) of each setting of `now` that was another one `before`, such as ("a.b", 1, 2); names of nested
    settings are joined with dots. Settings that `before` does not have are passed over."""
    return _differences(_plain(before), _plain(now))


def _plain(values: dict) -> dict:
    return json.loads(json.dumps(values, default=str))


def _differences(before: dict, now: dict, prefix: str = ""):
    for name, new in now.items():
        old = before.get(name, new)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield prefix + name, old, new


# -- several processes ----------------------------------------------------------------------------------------------

def _processes():
    """`modules.utils.dist` if a launcher started several processes; otherwise None, and torch is not imported."""
    if not os.environ.get("WORLD_SIZE", "1").isdecimal() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from modules.utils import dist

    return dist


def _is_first() -> bool:
    dist = _processes()
    return dist is None or dist.rank() == 0


def _agreed(value):
    """The first process's value."""
    dist = _processes()
    return value if dist is None else dist.broadcast_object(value)
