"""The log of a search, for people."""
from __future__ import annotations

from pathlib import Path


class SearchLog:
    """A text file, flushed line by line; a context that closes it.

    It is written afresh, for what a search has done is replayed into it; with `append` it goes on.
    """

    def __init__(self, path: Path, append: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a" if append else "w")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, line: str) -> None:
        """One line."""
        self._file.write(line + "\n")
        self._file.flush()
