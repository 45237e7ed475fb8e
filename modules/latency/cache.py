"""Measured latencies, kept outside the repository so that a block is timed once per machine and runtime version."""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from modules.utils.files import atomic_write


def cache_folder() -> Path:
    """`$SPACEEVO_CACHE`, or `spaceevo` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spaceevo"
    return Path(os.environ.get("SPACEEVO_CACHE") or default)


class LatencyCache:
    """A persistent table from strings to milliseconds, for one `identity` (machine, runtime, threads ...)."""

    def __init__(self, name: str, identity: dict):
        self.identity = identity
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.path = cache_folder() / f"{name}-{digest}.json"
        self.values: dict[str, float] = self._read()
        self.unsaved = 0

    def _read(self) -> dict[str, float]:
        return json.loads(self.path.read_text())["ms"] if self.path.is_file() else {}

    def get(self, key: str, measure) -> float:
        """The value of `key`; on first use `measure()` is called, and its result kept."""
        if key not in self.values:
            self.values[key] = measure()
            self.unsaved += 1
            if self.unsaved >= 20:
                self.save()
        return self.values[key]

    def save(self) -> None:
        """Write what is new; values another process wrote meanwhile are kept."""
        if self.unsaved:
            self.values = {**self.values, **self._read()}
            with atomic_write(self.path) as file:
                json.dump({"identity": self.identity, "ms": self.values}, file, indent=0)
            self.unsaved = 0
