"""One thread for every test, and the published facts that lie beside the repository."""
import json
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2] / "shared"


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
