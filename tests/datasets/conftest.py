"""One image tree in each layout; lines that a run prints once are printed in each test."""


import pytest
from image_trees import LAYOUTS, image_tree, write_layout

from modules.utils import notes


@pytest.fixture(params=LAYOUTS)
def written(request, tmp_path):
    return write_layout(request.param, image_tree(), tmp_path)


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())
