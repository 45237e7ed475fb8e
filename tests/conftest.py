"""One thread for every test, a run in which nothing was said yet, and the published facts beside the repository."""
import json
import os
from pathlib import Path

import pytest
import torch

from modules.utils import notes

# Scripts that a test starts, too: sums over two threads end in other digits than those over one, and a run that one
# process began and another ends is compared with a whole one to the bit.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    """Lines that a run prints once are printed in each test."""
    monkeypatch.setattr(notes, "_said", set())


@pytest.fixture(scope="session")
def shared():
    """A function from parts of a path to that path in ../shared; the test is skipped where it is missing."""
    def path(*parts: str) -> Path:
        target = SHARED.joinpath(*parts)
        if not target.exists():
            pytest.skip(f"published reference {'/'.join(parts)} is not in ../shared")
        return target
    return path


@pytest.fixture(scope="session")
def shared_json(shared):
    """A function from parts of a path in ../shared to the contents of that JSON file."""
    return lambda *parts: json.loads(shared(*parts).read_text())
