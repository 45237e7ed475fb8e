"""The log of a search, for people."""
from __future__ import annotations

from pathlib import Path


class SearchLog:
    """A text file written afresh, flushed line by line; a context that closes it."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, line: str) -> None:
        """One line."""
        self._file.write(line + "\n")
        self._file.flush()
