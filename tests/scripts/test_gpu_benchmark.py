"""The GPU benchmark at tiny size on a CPU: all parts run, and a second call passes over finished parts."""
import json
import os
import subprocess
import sys

import pytest

from modules.utils.checkpoint import load_checkpoint
from modules.utils.files import REPOSITORY


def call(*arguments):
    return subprocess.run(["benchmarks/gpu/run.sh", *arguments], cwd=REPOSITORY, text=True, capture_output=True,
                          env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_every_part_runs_and_a_second_call_goes_on(tmp_path):
    done = call("--out", str(tmp_path), "--device", "cpu", "--tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["logits"] for row in json.loads((tmp_path / "parity.json").read_text())["rows"]} == {0.0}
    assert json.loads((tmp_path / "steps.json").read_text())["seconds"].keys() >= {"fp32 plain", "fp32", "LSQ+ bf16"}
    assert json.loads((tmp_path / "input.json").read_text())["images_per_second"]["shift"] > 0
    for name in ("checkpoint.pth", "lsq.pth"):
        assert load_checkpoint(next((tmp_path / "trained").rglob(name)))["epoch"] == 1
    again = call("--out", str(tmp_path), "--device", "cpu", "--tiny")
    assert again.stdout.count("done before") == 6
    (tmp_path / "supernet.lsq.done").unlink()
    resumed = call("--out", str(tmp_path), "--device", "cpu", "--tiny")
    assert (resumed.returncode, resumed.stdout.count("done before")) == (0, 5)


def test_options_that_are_missing_or_unknown(tmp_path):
    for arguments, message in ((["--data", str(tmp_path)], "--out is not given"),
                               (["--out", str(tmp_path)], "--data is not given"),
                               (["--fast"], "unknown option '--fast'; allowed: --data")):
        done = call(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
