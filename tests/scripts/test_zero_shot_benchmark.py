"""The benchmark of Zen-NAS on CIFAR-10, at tiny size on the digits."""
import math

import pytest
from processes import run_script

from modules.search_space.reference import read_network
from modules.utils.csv_files import read_records
from modules.utils.files import REPOSITORY

TINY = ("--dataset", "digits", "--valid_size", "100", "--evaluations", "4", "--population_size", "4", "--max_mflops",
        "2", "--max_params", "0.1", "--resolution", "16", "--epochs", "1", "--quant_epochs", "1")


def call(*arguments):
    return run_script("benchmarks/zero_shot_cifar.py", *arguments, timeout=1800)


@pytest.mark.slow
def test_from_the_search_to_measured_files(tmp_path):
    command = [*TINY, "--scores", "QE", "Random", "--output_dir", str(tmp_path)]
    done = call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for _, row in read_records(tmp_path / "table.csv", "table", ("score", "structure"))]
    assert [row["score"] for row in rows] == ["QE", "Random"]
    for row in rows:
        assert float(row["mmacs"]) <= 2
        assert float(row["mparams"]) <= 0.1
        assert float(row["low"]) <= float(row["int8"]) <= float(row["high"])
        assert int(row["images"]) == 355
        assert float(row["onnx_ms"]) > 0
        assert float(row["tflite_ms"]) > 0
        network = read_network(f"{row['structure']}_r16")
        for engine in ("onnx", "tflite"):
            assert (tmp_path / "seed0" / engine / f"{network.name}_quant_int8.{engine}").is_file()
    table = (tmp_path / "table.csv").read_bytes()
    again = call(*command)
    assert again.stdout.count("done before") == again.stdout.count("\n== ") == 7
    assert (tmp_path / "table.csv").read_bytes() == table
    other = call(*command, "--epochs", "2")
    assert (other.returncode, "epochs was 1" in other.stderr) == (2, True)


def test_seeds_of_earlier_calls_stay_in_the_table(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from zero_shot_cifar import Contest, Round, finished_seeds

    names = {seed: [step.name for step in Round(Contest(), seed, REPOSITORY).steps()] for seed in (10, 2, 0)}
    done = [*names[10], *names[2], *names[0][:-1]]
    assert finished_seeds({"seconds": dict.fromkeys(done, 1.0)}) == [2, 10]


def test_summary_is_means_and_their_distance(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from zero_shot_cifar import summary

    same = {"mmacs": "10", "mparams": "1", "held_out": "80", "images": 100, "onnx_ms": "1", "tflite_ms": "2"}
    first, last = summary([{"score": score, "int8": int8, **same} for score, int8 in (
        ("Zen", "90"), ("Random", "60"), ("Zen", "80"), ("Random", "60"))])
    half = 1.96 * 100 * math.sqrt((0.9 * 0.1 + 0.8 * 0.2) / 400 + 2 * 0.6 * 0.4 / 400)
    assert (first["test, int8"], first["seeds"], first["above Random"]) == ("85.00", "90 80", f"+25.00 +- {half:.2f}")
    assert (last["test, int8"], last["above Random"]) == ("60.00", "")
