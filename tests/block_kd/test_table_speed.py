"""A limit in the milliseconds of the device that block tables are of."""
import pytest

from modules.block_kd.lut.speed import relative_latency
from modules.block_kd.lut.tables import how_made, load_tables
from modules.latency import get_platform
from modules.pipeline.pipeline import _table_limit
from modules.pipeline.request import Request

FITTED = {"onnxw": "onnx_lut", "mobilew": "tflite27_cpu_int8"}  # to the published tables
FOLDER = "data/block_lut"


class Slower:
    """A device that takes `factor` times as long as a platform."""

    def __init__(self, platform, factor):
        self.platform, self.factor = platform, factor

    def predict_block(self, block, hw):
        return self.factor * self.platform.predict_block(block, hw)


@pytest.mark.parametrize("superspace", FITTED)
def test_published_tables_are_as_fast_as_the_platform_fitted_to_them(superspace):
    platform = get_platform(FITTED[superspace])
    _, resolutions = how_made(FOLDER, superspace, FITTED[superspace])
    tables = load_tables(FOLDER, superspace, resolutions)
    assert relative_latency(tables, platform) == pytest.approx(1, abs=0.02)
    assert relative_latency(tables, Slower(platform, 3)) == pytest.approx(1 / 3, abs=0.01)


def test_the_pipeline_gives_the_search_the_tables_milliseconds(monkeypatch):
    asked = Request(dataset="digits", superspace="cifarw_tiny", tables=FOLDER)
    limits = {}
    for factor in (1, 2):
        monkeypatch.setattr("modules.pipeline.pipeline.get_platform",
                            lambda name, factor=factor: Slower(get_platform("onnx_lut"), factor))
        limits[factor] = _table_limit(1.0, asked)
    assert limits[2] == pytest.approx(limits[1] / 2, rel=0.01)
    assert _table_limit(1.0, Request(dataset="digits", superspace="cifarw_tiny")) == 1.0  # tables of its own
