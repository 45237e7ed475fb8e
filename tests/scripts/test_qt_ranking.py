"""The benchmark of the Q-T score as a ranking of spaces: its statistics, and a run at tiny size on the digits."""
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kendalltau

from modules.block_kd.lut.tables import BlockTables, Rows
from modules.utils.csv_files import read_records
from modules.utils.files import REPOSITORY


@pytest.fixture
def ranking(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import qt_ranking

    return qt_ranking


def test_tau_is_concordant_minus_discordant_pairs_with_an_interval_around_it(ranking):
    rng = np.random.default_rng(3)
    best = rng.permutation(14).astype(float)
    noisy = best + 4 * rng.normal(size=14)
    rows = [{"space": str(i), "best": b, "same": b, "turned": -b, "noisy": n}
            for i, (b, n) in enumerate(zip(best, noisy, strict=True))]
    found = {row["ranked by"]: row for row in ranking.taus(rows, seed=0)}
    pairs = [np.sign((best[i] - best[j]) * (noisy[i] - noisy[j])) for i in range(14) for j in range(i)]
    assert found["noisy"]["tau"] == pytest.approx(np.mean(pairs))
    assert found["noisy"]["low"] < found["noisy"]["tau"] < found["noisy"]["high"]
    assert [found["same"][name] for name in ("tau", "low", "high")] == pytest.approx([1, 1, 1])
    assert [found["turned"][name] for name in ("tau", "low", "high")] == pytest.approx([-1, -1, -1])


def test_losses_by_stage_have_a_mean_of_one_and_their_order(ranking):
    rng = np.random.default_rng(0)

    def rows(scale):
        loss = np.sort(scale * rng.random(5))
        return (Rows(loss, *np.ones((3, 5))),)

    tables = BlockTables("cifarw_short", (24,), ({(0, 0): rows(1), (1, 0): rows(3)}, {(0, 0): rows(50)}))
    for stage, original in zip(ranking.per_stage(tables).stages, tables.stages, strict=True):
        losses = [entry[0].loss for entry in stage.values()]
        assert np.mean(losses) == pytest.approx(1)
        given = np.concatenate([entry[0].loss for entry in original.values()])
        assert kendalltau(np.concatenate(losses), given).statistic == pytest.approx(1)


@pytest.mark.slow
def test_from_the_spaces_to_the_table(tmp_path):
    choices = ["666-000", "000-000", "516-000"]
    command = [sys.executable, "benchmarks/qt_ranking.py", "--dataset", "digits", "--valid_size", "60", "--epochs", "1",
               "--label_epochs", "1", "--subnets", "3", "--latency_constraint", "0.4", "--choices", *choices,
               "--lut_path", "data/block_lut", "--models_save_dir", str(tmp_path / "models"), "--output",
               str(tmp_path)]
    first = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
    assert first.returncode == 0, first.stdout + first.stderr
    rows = [row for _, row in read_records(tmp_path / "qt_ranking.csv", "table", ("space", "best", "Q-T score"))]
    assert {row["space"] for row in rows} == set(choices)
    values = np.array([[float(row[name]) for name in list(row)[1:]] for row in rows])
    assert np.isfinite(values).all()
    ranked = [row for _, row in read_records(tmp_path / "qt_ranking_tau.csv", "table", ("ranked by", "tau"))]
    best, score = ([float(row[name]) for row in rows] for name in ("best", "Q-T score"))
    by_score = next(row for row in ranked if row["ranked by"] == "Q-T score")
    assert float(by_score["tau"]) == pytest.approx(kendalltau(best, score).statistic, abs=1e-3)
    assert (tmp_path / "qt_ranking.png").stat().st_size > 10_000
    table = (tmp_path / "qt_ranking.csv").read_bytes()
    again = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
    assert (again.returncode, "epoch" in again.stdout) == (0, False)  # nothing is trained again
    assert (tmp_path / "qt_ranking.csv").read_bytes() == table
    other = subprocess.run([*command, "--label_epochs", "0"], cwd=REPOSITORY, text=True, capture_output=True)
    assert (other.returncode, "label_epochs was 1" in other.stderr) == (2, True)  # accuracies of another training
