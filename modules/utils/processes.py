"""Processes that run at once: a lock on a folder, so that two runs never write there, and the end of a child with its
parent."""
from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import sys
from datetime import datetime
from pathlib import Path

from modules.utils.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

LOCK_FILE = ".lock"
PARENT = "SPACEEVO_PARENT"  # in the environment of a script: the process that it ends with
_PR_SET_PDEATHSIG = 1  # of Linux' prctl
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_held: dict[Path, str] = {}  # held by this process, and since when: the kernel lets a process pass its own locks


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, the process that started it, ends.

    On Linux only.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


class FolderLock:
    """A lock on `folder`, held from `take` to `release`; the kernel releases the lock of a killed process.

    It belongs to this process alone; forked workers do not inherit it. `release` removes the folders that `take` made,
    if they are still empty.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder).absolute() / LOCK_FILE
        self._file = None
        self._made: list[Path] = []

    def take(self) -> None:
        """Take the lock. UserError that names its holder if another process has it; a warning if the file system has no
        locks."""
        folder = self.path.parent
        self._made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if self.path in _held:  # opening and closing it once more would end the lock
            raise self._refusal(_held[self.path])
        while self._file is None:
            file = open(self.path, "a+")  # noqa: SIM115 (closed by release, which ends the lock)
            if not self._lock(file):
                with file:
                    raise self._refusal(_holder(file))
            if _is_at(file, self.path):
                self._file = file
            else:  # its holder ended and removed it after we opened it and before we locked it
                file.close()
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        _held[self.path] = _named(holder)
        self._file.truncate(0)
        json.dump(holder, self._file)
        self._file.flush()

    def _refusal(self, holder: str) -> UserError:
        return UserError(f"{str(self.path.parent)!r} is in use by {holder}; wait for its end, or give another folder")

    def _lock(self, file) -> bool:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno not in _UNSUPPORTED:
                raise
            print(f"warning: {self.path.parent} cannot be locked ({error.strerror}); start one run at a time there",
                  file=sys.stderr)
        return True

    def release(self) -> None:
        """Give the lock back, and remove its file."""
        if self._file:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
            del _held[self.path]
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # something came into it
                break


def _is_at(file, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _named(holder: dict) -> str:
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _holder(file) -> str:
    try:
        file.seek(0)
        return _named(json.loads(file.read()))
    except (ValueError, KeyError, TypeError):  # it has not written yet
        return "another process"
