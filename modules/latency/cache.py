"""Measured latencies, kept outside the repository: a block is timed once per machine and runtime version."""
from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from modules.utils.cli import describe
from modules.utils.errors import UserError, shorten
from modules.utils.files import atomic_write
from modules.utils.json_files import is_finite, read_json
from modules.utils.processes import fcntl


def cache_folder() -> Path:
    """`$SPACEEVO_CACHE`, or `spaceevo` in the user's cache folder."""
    if ours := os.environ.get("SPACEEVO_CACHE"):
        return Path(ours)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spaceevo"
    except RuntimeError:  # a user without a name and without HOME
        raise UserError("there is no home folder for measured latencies; set SPACEEVO_CACHE to a folder") from None


class LatencyCache:
    """A persistent table from strings to milliseconds, for one `identity` (machine, runtime, threads ...).

    A damaged file, a file of another identity, and figures that are no milliseconds above 0 are not believed. A line
    says so, and the blocks are measured anew. If the file cannot be written, a line says so once, and nothing is kept.
    """

    def __init__(self, name: str, identity: dict):
        self.identity = json.loads(json.dumps(identity))
        self._said: set[str] = set()
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.path = cache_folder() / f"{name}-{digest}.json"
        self.values: dict[str, float] = self._read()
        self.unsaved = 0

    def _read(self) -> dict[str, float]:
        try:
            if not self.path.is_file():
                return {}
            content = read_json(self.path, "latency cache", {"identity": dict, "ms": dict}, finite=False)
        except (UserError, OSError) as error:
            reason = describe(error) if isinstance(error, OSError) else error
            self._say(f"{reason}; its latencies are measured anew")
            return {}
        if content["identity"] != self.identity:
            self._say(f"latency cache {str(self.path)!r} is of another machine or runtime; its latencies are measured "
                      "anew")
            return {}
        good = {key: float(ms) for key, ms in content["ms"].items() if is_finite(ms) and ms > 0}
        if len(good) < len(content["ms"]):
            key = next(key for key in content["ms"] if key not in good)
            self._say(f"latency cache {str(self.path)!r}: {len(content['ms']) - len(good)} figures are no ms above 0, "
                      f"such as {shorten(content['ms'][key])} of {key}; they are measured anew")
        return good

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print(f"warning: {line}", file=sys.stderr)

    def get(self, key: str, measure) -> float:
        """The value of `key`. On first use `measure()` gives it, and it is kept."""
        if key not in self.values:
            self.values[key] = measure()
            self.unsaved += 1
            if self.unsaved >= 20:
                self.save()
        return self.values[key]

    @contextmanager
    def _alone(self):
        """Other processes wait before they read and write the file; where a file system has no locks they do not."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{self.path}.lock", "a") as file:
            if fcntl:
                with suppress(OSError):
                    fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    def save(self) -> None:
        """Write the new values. Values that another process wrote meanwhile are kept, and win over ours."""
        if self.unsaved:
            try:
                with self._alone():
                    self.values = {**self.values, **self._read()}
                    with atomic_write(self.path) as file:
                        json.dump({"identity": self.identity, "ms": self.values}, file, indent=0)
            except OSError as error:
                self._say(f"measured latencies are not kept: {describe(error)}; SPACEEVO_CACHE names another folder")
            self.unsaved = 0
