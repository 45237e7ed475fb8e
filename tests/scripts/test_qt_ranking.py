"""The benchmark of the Q-T score as a ranking of spaces: its statistics, and a run at tiny size on the digits."""
import argparse

import numpy as np
import pytest
import torch
from processes import run_script
from scipy.stats import kendalltau

from modules.block_kd.student.files import StudentRecord, build_student, student_path
from modules.block_kd.teacher import TeacherRecord, fit_teacher, load_teacher
from modules.modeling.quant_mode import QuantMode
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace
from modules.utils.checkpoint import save_checkpoint
from modules.utils.csv_files import read_records
from modules.utils.errors import UserError
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


@pytest.fixture
def students(tmp_path):
    """The folder of untrained INT8 students for the space 601-000 of cifarw_short, and the file of their teacher."""
    torch.manual_seed(0)
    record = TeacherRecord("efficientnet-small", tuple("0123456789"), dataset="digits", quant=QuantMode())
    teacher = record.build().train()
    teacher(torch.randn(4, 3, 96, 96))
    save_checkpoint(tmp_path / "lsq.pth", {"model": teacher.state_dict(), "config": record.to_dict()})
    teacher = load_teacher(None, tmp_path / "lsq.pth", quant=True)
    fit_teacher(teacher, get_superspace("cifarw_short"))
    for stage, block in (("stage1", 6), ("stage3", 0), ("stage5", 1)):
        record = StudentRecord("cifarw_short", stage, block, teacher.arch, (24,), "digits", QuantMode(),
                               {"valid_size": 20})
        student = build_student(record, teacher)
        student(torch.randn(2, teacher.stages[stage][0], 24, 24))  # its quantisers start
        path = student_path(tmp_path / "blocks" / "cifarw_short", record.name, int8=True)
        save_checkpoint(path, {"model": student.state_dict(), "config": record.to_dict()})
    return tmp_path / "blocks", tmp_path / "lsq.pth"


def test_composed_students_of_each_subnet(ranking, students):
    config, rng = SupernetConfig.from_choice("cifarw_short", "601-000"), np.random.default_rng(0)
    args = argparse.Namespace(superspace="cifarw_short", resolutions=[24], seed=0, students=str(students[0]),
                              teacher_checkpoint_path=str(students[1]))
    one, two = (SubnetSpace(config, (24,)).sample(rng) for _ in range(2))
    opened = ranking.open_students([config], "onnxruntime_int8", args)
    (first,), (second, again) = ranking.compose([config, config], [[one], [two, one]], *opened, args)
    assert first == pytest.approx(again, rel=1e-9)  # each beside its space
    assert first != pytest.approx(second, rel=1e-3)
    assert np.isfinite([first, second]).all()


def test_a_missing_student_is_told_before_the_first_training(ranking, students, tmp_path):
    with pytest.raises(UserError, match=r"stage5_3.lsq\.pth"):
        ranking.main(["--lut_path", str(REPOSITORY / "data" / "block_lut"), "--latency_constraint", "0.3",
                      "--choices", "603-000", "--students", str(students[0]), "--teacher_checkpoint_path",
                      str(students[1]), "--models_save_dir", str(tmp_path / "models")])
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("given", [["--students", "blocks"], ["--teacher_checkpoint_path", "lsq.pth"]])
def test_students_and_their_teacher_are_given_together(ranking, given):
    with pytest.raises(UserError, match="--students and --teacher_checkpoint_path belong together"):
        ranking.main(["--latency_constraint", "0.3", "--choices", "666-000", *given])


def test_students_without_tables_are_refused(ranking):
    with pytest.raises(UserError, match="--students without --lut_path ranks nothing"):
        ranking.main(["--latency_constraint", "0.3", "--choices", "666-000", "--students", "blocks",
                      "--teacher_checkpoint_path", "lsq.pth"])


@pytest.mark.slow
def test_from_the_spaces_to_the_table(tmp_path):
    choices = ["666-000", "000-000", "516-000"]
    command = ["benchmarks/qt_ranking.py", "--dataset", "digits", "--valid_size", "60", "--epochs", "1",
               "--label_epochs", "1", "--subnets", "3", "--latency_constraint", "0.4", "--choices", *choices,
               "--lut_path", "data/block_lut", "--models_save_dir", str(tmp_path / "models"), "--output",
               str(tmp_path)]
    first = run_script(*command, timeout=1800)
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
    again = run_script(*command, timeout=1800)
    assert (again.returncode, "epoch" in again.stdout) == (0, False)  # nothing is trained again
    assert (tmp_path / "qt_ranking.csv").read_bytes() == table
    other = run_script(*command, "--label_epochs", "0")
    assert (other.returncode, "label_epochs was 1" in other.stderr) == (2, True)  # accuracies of another training
