"""The fit of a published platform: from tables of invented, additive blocks to its files and its report."""
import csv
import gzip
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from modules.latency.fitted.block_model import BlockModel
from modules.latency.keys import block_key
from modules.latency.published.__main__ import FITS, fit_platform
from modules.latency.published.anchors import pixel4_anchors
from modules.latency.published.checks import Check
from modules.latency.published.tables import read_block_table, read_table_rows
from modules.modeling.complexity import count_block
from modules.modeling.spec import BlockArgs, build_block
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

COLUMNS = ("block", "hw", "cin", "cout", "kernel", "expand", "stride", "latency_ms", "identified")
PUBLISHED = REPOSITORY / "data" / "block_lut" / "onnxw" / "tables.zip"


def cost(block, hw):
    """Milliseconds: 3 microseconds a layer, 100 billion multiply-accumulates and 10 billion weights a second."""
    counts, _ = count_block(build_block(block), hw)
    return sum(0.003 + count.macs / 1e8 + count.parameters[0] / 1e7 for count in counts)


def write_blocks(folder, rows):
    (folder / "block_latency").mkdir(exist_ok=True)
    with gzip.open(folder / "block_latency" / "onnxw_blocks.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Ten rows of each twelfth table of onnxw, with sums of `cost` as their latencies; and the blocks."""
    folder = tmp_path_factory.mktemp("tables")
    rows = folder / "block_lut" / "onnxw"
    rows.mkdir(parents=True)
    with zipfile.ZipFile(PUBLISHED) as archive:
        for name in sorted(archive.namelist())[::12]:
            (rows / name).write_text("\n".join(archive.read(name).decode().splitlines()[:10]))
    read = read_table_rows(folder, "onnxw")
    blocks = {key: cost(*key) for key in zip(read.blocks, read.hws, strict=True)}
    sums = iter(read.sum(np.array(list(blocks.values()))))
    for path in sorted(rows.iterdir()):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(f"{line.rpartition(',')[0]},{float(next(sums))!r}" for line in lines))
    write_blocks(folder, [(f"{b.kind}Block", hw[0], b.cin, b.cout, b.kernel, str(b.expand), b.stride, ms, 1)
                          for (b, hw), ms in blocks.items()])
    others = {(b, (hw[0] * pixels // 224,) * 2) for b, hw in blocks for pixels in (176, 208) if hw[0] % 14 == 0}
    (folder / "onnx_block_latency.json").write_text(json.dumps({block_key(*key): cost(*key) for key in others}))
    return folder


def test_additive_blocks_are_found(tables, tmp_path, monkeypatch):
    few = replace(FITS["onnx_lut"].settings, kernel_rounds=10, block_rounds=10, folds=2)
    monkeypatch.setitem(FITS, "onnx_lut", replace(FITS["onnx_lut"], settings=few))
    fit_platform("onnx_lut", tables, tmp_path)
    table = [line.strip("| ").split(" | ") for line in (tmp_path / "report.md").read_text().splitlines()
             if line.startswith("| ")]
    found = {row[0]: dict(zip(table[0], row, strict=False)) for row in table}
    for name in ("20% of blocks", "rows with such blocks", "resolution 192, blocks", "resolution 192, rows",
                 "resolution 176, blocks", "resolution 208, blocks"):
        assert int(found[name]["number"]) >= 20, name
        assert float(found[name]["RMS"]) < 0.05, name
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    rows, others = read_table_rows(tables, "onnxw"), json.loads((tables / "onnx_block_latency.json").read_text())
    assert json.loads((tmp_path / "model.npz.json").read_text())["blocks"] == len(rows.blocks) + len(others)
    ms, _, outside = BlockModel.load(tmp_path / "model.npz").predict(rows.blocks, rows.hws)
    assert not outside.any()
    assert rows.sum(ms) == pytest.approx(rows.ms, rel=5e-4)


def test_figures_of_a_check_by_hand():
    """Errors of 20, -5 and 0 percent: the root of 425 / 3, and 25 / 3."""
    row = Check("some", np.array([1.0, 2.0, 4.0]), np.array([1.2, 1.9, 4.0])).row()
    assert row == {"held out": "some", "number": 3, "RMS": "11.90", "mean abs": "8.33", "median abs": "5.00",
                   "bias": "+5.00", "within 10%": "66.7", "in 90% interval": ""}
    assert Check("some", np.ones(2), np.ones(2), 0.5).row()["in 90% interval"] == "50.0"


@pytest.mark.parametrize(("block", "hw", "ms"), [  # at 160 pixels (160 / 224)^2 = 25 / 49 as long
    (BlockArgs("Conv", 16, 16, 1), 112, 0.473), (BlockArgs("Conv", 64, 128, 1), 112, 3.031),
    (BlockArgs("Conv", 192, 192, 3), 80, 70.31 * 25 / 49), (BlockArgs("Conv", 3, 16, 3, None, 2, "relu"), 224, 1.3387),
    (BlockArgs("Conv", 3, 40, 3, None, 2, "relu"), 160, 1.3387 * 25 / 49 * (27 + 40) / (27 + 16)),
    (BlockArgs("MobileNetV2", 16, 16, 3, 1, 1, "relu"), 112, 0.21 + 0.473 + 0.256),
    (BlockArgs("MobileNetV2", 32, 16, 3, 1, 1, "relu"), 112, 2 * 0.21 + 0.012544 * (1.161 * 48 + 0.00229 * 512)),
    (BlockArgs("Conv", 312, 1280, 1, None, 1, "swish"), 5, (0.29 * 312 / 216 + 0.1) * 25 / 49),
    (BlockArgs("FeatureMix", 1280, 1920, 1, None, 1, "swish"), 5, 0.55),
    (BlockArgs("Logits", 1920, 1000, 1, None, 1, None), 1, 0.251 * 1.5)])
def test_layers_of_the_pixel_4_by_hand(block, hw, ms):
    assert pixel4_anchors().table[block, (hw, hw)] == pytest.approx(ms, rel=1e-3)


GOOD = ("MobileNetV1DualBlock", 28, 48, 48, 3, "None", 1, 0.5, 1)


@pytest.mark.parametrize(("rows", "fault"), [
    ([GOOD, (*GOOD[:7], "0.x5", 1)], "could not convert string to float: '0.x5'"),
    ([GOOD, ("NoBlock", *GOOD[1:])], "no column or block 'No'"), ([GOOD, (*GOOD[:8], 0)], None), ([GOOD], None)])
def test_a_damaged_list_of_blocks_is_refused_in_one_line(tmp_path, rows, fault):
    write_blocks(tmp_path, rows)
    if fault is None:  # a block without a latency of its own is passed over
        assert list(read_block_table(tmp_path, "onnxw").table.values()) == [0.5]
        return
    with pytest.raises(UserError, match=r"^--tables '.*': onnxw_blocks\.csv\.gz: ") as error:
        read_block_table(tmp_path, "onnxw")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"onnxw_blocks\.csv\.gz: No such file"):
        read_block_table(tmp_path, "onnxw")
    write_blocks(tmp_path, [GOOD] * 500)
    path = tmp_path / "block_latency" / "onnxw_blocks.csv.gz"
    whole = path.read_bytes()
    damaged = whole[:20] + bytes(byte ^ 255 for byte in whole[20:])
    column = gzip.compress(b"block,hw\nResNetBlock,28\n")
    short = gzip.compress(",".join(reversed(COLUMNS)).encode() + b"\n1,0.5\n")
    for content in (whole[:-20], damaged, b"block,hw\n", column, short):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"onnxw_blocks\.csv\.gz: .") as error:
            read_block_table(tmp_path, "onnxw")
        assert not str(error.value).endswith("None")
    rows = tmp_path / "block_lut" / "onnxw"
    rows.mkdir(parents=True)
    for line in ("3#48#None,1x32x80x80,0.39,19.5,0.013", "3#48#None,1x32x80x79,0.39,19.5,0.013,0.98"):
        (rows / "stage1_0_0.csv").write_text(line)
        with pytest.raises(UserError, match=r"stage1_0_0\.csv: row '3#48.*; expected blocks,1xCxHxH,loss"):
            read_table_rows(tmp_path, "onnxw")
