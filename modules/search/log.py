"""The log of a search."""
from __future__ import annotations

from pathlib import Path


class SearchLog:
    """A text file, flushed line by line; a context that closes it.

    It is written afresh: a search replays its past into it. With `append` it continues.
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
