"""One image tree in each layout."""
import pytest
from image_trees import LAYOUTS, image_tree, write_layout


@pytest.fixture(params=LAYOUTS)
def written(request, tmp_path):
    return write_layout(request.param, image_tree(), tmp_path)
