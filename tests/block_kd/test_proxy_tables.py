"""Block tables whose losses come of a training-free score."""
import itertools
import shlex

import numpy as np
import pytest
from scipy.stats import spearmanr

import eval_block_kd
from modules.block_kd.lut import proxy_tables
from modules.block_kd.lut.proxy_tables import REFERENCE
from modules.block_kd.lut.rows import TableRow
from modules.block_kd.lut.tables import how_made, load_tables, table_file
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import NetSpec
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.zero_shot.plain_view import plain_view

TABLES = ("stage2_1", "stage2_4")


def build(folder, *options) -> dict[str, list[list[str]]]:
    """The fields of the tables' lines, by file name."""
    eval_block_kd.main(["--superspace", "onnxw_tiny", "--platform", "onnx_lut", "--output_path", str(folder), *options])
    return {path.stem: [line.split(",") for line in path.read_text().splitlines()]
            for path in sorted((folder / "onnxw_tiny").glob("stage*.csv"))}


def test_losses_fall_with_the_score_and_rows_stand_for_themselves(tmp_path):
    quick = ("--proxy", "Params", "--stage_list", *TABLES)
    tables = build(tmp_path / "a", *quick, "--num_samples_per_stage", "6")
    rows = [(float(fields[2]), float(fields[4])) for lines in tables.values() for fields in lines]
    losses, params = np.array(rows).T
    assert len(rows) == 6 * len(tables) > 12
    assert (losses > 0).all()
    assert (losses < 1).all()
    assert spearmanr(losses, params)[0] < -0.99  # the table's column counts quantisers, and the layers that scores miss
    first = build(tmp_path / "b", *quick, "--num_samples_per_stage", "2")
    more = build(tmp_path / "b", *quick, "--num_samples_per_stage", "6", "--resume")
    assert {name: lines[:2] for name, lines in tables.items()} == first
    assert more == tables
    with pytest.raises(UserError, match="proxy:Params"):
        build(tmp_path / "b", "--proxy", "Flops", "--resume", "--stage_list", *TABLES)
    with pytest.raises(UserError, match="unknown proxy"):
        build(tmp_path / "c", "--proxy", "Guess")
    folder = tmp_path / "b" / "onnxw_tiny"
    with pytest.raises(UserError, match="missing block table") as error:  # the hint continues these tables
        table_file(folder, get_superspace("onnxw_tiny"), get_superspace("onnxw_tiny").stage("stage1"), (5, 1))
    words = str(error.value).partition("build it with: python eval_block_kd.py ")[2].partition(" and the other")[0]
    eval_block_kd.main([*shlex.split(words), "--num_samples_per_stage", "1", "--stage_list", "stage1_5"])
    assert (folder / "stage1_5_1.csv").is_file()
    assert (folder / "stage1_5_0.csv").is_file()


def test_a_loss_is_the_logistic_of_the_standardised_score(tmp_path):
    tables = build(tmp_path, "--proxy", "Flops", "--stage_list", "stage2_1", "--num_samples_per_stage", "2",
                   "--hw_list", "64")

    def macs(block, window, index):
        row = TableRow.draw(0, "onnxw_tiny", "stage2", block, window, index, (64,))
        net = plain_view(NetSpec((("stage2", row.blocks),), row.input_shape[-1]))
        return count_net_flops_and_params(net)[0] + row.blocks[-1].args.cout * 10 / 1e6  # and a classifier

    kinds = [(block, window) for block in range(6) for window in range(len(tables))]
    reference = [macs(*kinds[i % len(kinds)], 10**6 + i) for i in range(REFERENCE)]
    for window in range(len(tables)):
        score = macs(1, window, 1)
        expected = 1 / (1 + np.exp((score - np.mean(reference)) / np.std(reference)))
        assert float(tables[f"stage2_1_{window}"][1][2]) == pytest.approx(expected, abs=2e-3)


def test_a_space_search_takes_the_tables(tmp_path):
    build(tmp_path, "--proxy", "QE", "--num_samples_per_stage", "8", "--hw_list", "64")
    assert how_made(tmp_path, "onnxw_tiny") == ("onnx_lut", (64,))
    tables = load_tables(tmp_path, "onnxw_tiny", (64,))
    losses = [rows[0].loss for stage in tables.stages for rows in stage.values()]
    assert all(len(values) == 8 and (values > 0).all() and (values < 1).all() for values in losses)


@pytest.mark.parametrize("values", [[3.0], [float("nan"), float("inf")]])
def test_a_score_that_tells_no_rows_apart_is_refused(tmp_path, monkeypatch, values):
    drawn = itertools.cycle(values)
    monkeypatch.setattr(proxy_tables, "scores", lambda *_: [next(drawn)])
    with pytest.raises(UserError, match="score Params tells no rows of stage2 of onnxw_tiny apart; expected another"):
        build(tmp_path, "--proxy", "Params", "--stage_list", "stage2_1", "--num_samples_per_stage", "2")
