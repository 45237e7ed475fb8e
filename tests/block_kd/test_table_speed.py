"""A limit in the milliseconds of the device that block tables are of."""
from dataclasses import replace

import pytest

from modules.block_kd.lut.speed import relative_latency, sum_over_network
from modules.block_kd.lut.tables import how_made, load_tables
from modules.block_kd.space_search.spaces import Spaces
from modules.latency import get_platform
from modules.pipeline.pipeline import _table_limit
from modules.pipeline.request import Request
from modules.utils.files import REPOSITORY

FITTED = {"onnxw": "onnx_lut", "mobilew": "tflite27_cpu_int8"}  # to the published tables
FOLDER = str(REPOSITORY / "data" / "block_lut")


class Slower:
    """A device that takes `factor` times as long as a platform, and for networks `whole` times that."""

    def __init__(self, platform, factor, whole=1.0):
        self.platform, self.factor, self.whole = platform, factor, whole

    def predict_block(self, block, hw):
        return self.factor * self.platform.predict_block(block, hw)

    def predict_subnets(self, specs):
        sums = self.platform.predict_subnets(specs)
        return replace(sums, ms=self.factor * self.whole * sums.ms)


@pytest.mark.parametrize("superspace", FITTED)
def test_published_tables_are_as_fast_as_the_platform_fitted_to_them(superspace):
    platform = get_platform(FITTED[superspace])
    _, resolutions = how_made(FOLDER, superspace, FITTED[superspace])
    tables = load_tables(FOLDER, superspace, resolutions)
    assert relative_latency(tables, platform) == pytest.approx(1, abs=0.02)
    assert relative_latency(tables, Slower(platform, 3)) == pytest.approx(1 / 3, abs=0.01)


def test_a_sum_of_blocks_is_longer_than_the_network():
    nets = Spaces("cifarw_short", ("ResNetBasic", "MobileNetV2Res")).random_nets(24, 10)
    platform = get_platform("onnx_lut")  # it predicts networks as such sums
    assert sum_over_network(nets, platform) == pytest.approx(1)
    assert sum_over_network(nets, Slower(platform, 3, whole=0.8)) == pytest.approx(1 / 0.8)


def test_the_pipeline_gives_the_search_the_tables_milliseconds(monkeypatch):
    asked = Request(dataset="digits", superspace="cifarw_tiny", tables=FOLDER)
    limits = {}
    for factor, whole in ((1, 1), (2, 1), (1, 0.8)):
        monkeypatch.setattr("modules.pipeline.pipeline.get_platform",
                            lambda name, device=(factor, whole): Slower(get_platform("onnx_lut"), *device))
        limits[factor, whole] = _table_limit(1.0, asked, 10)
    assert limits[2, 1] == pytest.approx(limits[1, 1] / 2, rel=0.01)
    assert limits[1, 0.8] == pytest.approx(limits[1, 1] / 0.8, rel=0.01)
    monkeypatch.undo()
    monkeypatch.setattr("modules.pipeline.pipeline.get_platform", lambda name: get_platform("onnx_lut"))
    assert _table_limit(1.0, Request(dataset="digits", superspace="cifarw_tiny"), 10) == 1.0  # tables of its own
