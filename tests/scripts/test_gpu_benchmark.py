"""The GPU benchmark at tiny size on a CPU: all parts run, and a second call passes over finished parts."""
import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu.parity import LAYERS, compare_layer, judge
from modules.modeling.ops import fake_quant
from modules.modeling.ops.fake_quant import quantize_weight
from modules.utils.checkpoint import load_checkpoint
from modules.utils.files import REPOSITORY


def call(*arguments):
    return subprocess.run(["benchmarks/gpu/run.sh", *arguments], cwd=REPOSITORY, text=True, capture_output=True,
                          env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_every_part_runs_and_a_second_call_goes_on(tmp_path):
    done = call("--out", str(tmp_path), "--device", "cpu", "--tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    parity = json.loads((tmp_path / "parity.json").read_text())
    assert {row["logits"] for row in parity["rows"]} == {row["gradients"] for row in parity["layers"]} == {0.0}
    assert json.loads((tmp_path / "steps.json").read_text())["seconds"].keys() >= {"fp32 plain", "fp32", "LSQ+ bf16"}
    assert json.loads((tmp_path / "input.json").read_text())["images_per_second"]["shift"] > 0
    for name in ("checkpoint.pth", "lsq.pth"):
        assert load_checkpoint(next(tmp_path.glob(f"supernet/*/{name}")))["epoch"] == 1
    assert (tmp_path / "epochs").read_text() == "1\n"
    again = call("--out", str(tmp_path), "--device", "cpu", "--tiny")
    assert again.stdout.count("done before") == 6
    (tmp_path / "supernet.lsq.done").unlink()
    resumed = call("--out", str(tmp_path), "--device", "cpu", "--tiny")
    assert (resumed.returncode, resumed.stdout.count("done before")) == (0, 5)


@pytest.mark.parametrize(("place", "value", "status"), [
    (("layers", "outputs"), 1e-6, 0), (("layers", "gradients"), 0.5, 1), (("layers", "outputs"), float("nan"), 1),
    (("fp32", "logits"), 0.5, 1), (("fp32", "gradients"), float("nan"), 1), (("int8", "logits"), 0.5, 0),
    (("int8", "logits"), float("nan"), 1), (("int8", "gradients"), float("inf"), 1)])
def test_parity_fails_where_a_number_is_too_far_or_none(place, value, status):
    layer = {"outputs": 1e-6, "gradients": 1e-6}
    nets = {"fp32": {"int8": False, "logits": 1e-6, "gradients": 1e-6},
            "int8": {"int8": True, "logits": 0.1, "gradients": 0.9}}
    (layer if place[0] == "layers" else nets[place[0]])[place[1]] = value
    assert judge([layer], list(nets.values()), 0.02) == status


def test_parity_sees_a_wrong_layer(monkeypatch):
    for name in LAYERS:
        assert set(compare_layer(name, "cpu", 4).values()) == {0.0}, name
    calls = []

    def wrong(weight, *rest):
        calls.append(weight)
        return quantize_weight(weight * (1 + 0.05 * (len(calls) > 1)), *rest)  # on the second device alone

    monkeypatch.setattr(fake_quant, "quantize_weight", wrong)
    assert max(compare_layer("LSQ+ convolution", "cpu", 4).values()) > 0.02


def test_options_that_are_missing_or_unknown(tmp_path):
    for arguments, message in ((["--data", str(tmp_path)], "--out is not given"),
                               (["--out", str(tmp_path)], "--data is not given"),
                               (["--fast"], "unknown option '--fast'; allowed: --data")):
        done = call(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
