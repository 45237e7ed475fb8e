"""search_subnet.py and its evaluation of subnets, on a small checkpoint."""
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import free_port, kill_when, run_script
from test_subnet_search import SPACE, read

from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord, checkpoint_folder
from modules.modeling.supernet import Supernet
from modules.search_space.subnet_space import SubnetSpace
from modules.training.evaluation import evaluate, extract_calibrated
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils import dist
from modules.utils.checkpoint import save_checkpoint
from modules.utils.files import REPOSITORY

# ---------------------------------------------------------------- evaluation

def write_checkpoint(folder, weight_bits=8):
    """An int8 checkpoint of random weights, whose quantisers have started, in `folder`."""
    torch.manual_seed(0)
    model, quant = Supernet(SPACE, 10, (32, 48)).train(), QuantMode(weight_bits)
    quant.apply(model)
    model(torch.randn(8, 3, 48, 48))
    record = ModelRecord(str(SPACE), (32, 48), tuple("0123456789"), "digits", quant=quant,
                         training={"augment": "default"})
    save_checkpoint(checkpoint_folder(folder, SPACE) / "lsq.pth", {"state_dict": model.state_dict(),
                                                                   "config": record.to_dict()})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints"))


def test_kept_images_give_the_same_accuracy(checkpoint):
    evaluator = SubnetEvaluator.open(checkpoint_folder(checkpoint, SPACE) / "lsq.pth", SPACE, quant_mode=True,
                                     valid_size=60, batch_size=10, calibration_batches=1, limit_batches=2)
    rng = np.random.default_rng(0)
    small, large = SubnetSpace(SPACE, (32,)).sample(rng), SubnetSpace(SPACE, (48,)).sample(rng)
    for choice, test in ((small, False), (large, False), (small, True), (small, False), (large, True)):
        net = extract_calibrated(evaluator.model, choice, evaluator.calibration)
        assert evaluator.accuracy(choice, test) == evaluate(net, evaluator.validation_batches(test))
    assert not torch.equal(next(evaluator.validation_batches(True))[0], next(evaluator.validation_batches())[0])


def test_alone_no_process_waits_for_others(monkeypatch):
    def refuse(*_):
        raise AssertionError("a collective")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "all_reduce", refuse)
    with dist.alone():
        assert (dist.rank(), dist.world_size()) == (0, 1)
        assert dist.all_sum(torch.ones(2)).tolist() == [1, 1]
        assert dist.gather_objects("x") == ["x"]
    assert (dist.rank(), dist.world_size()) == (3, 4)
    with pytest.raises(AssertionError, match="collective"):
        dist.all_sum(torch.ones(2))


# ---------------------------------------------------------------- the script

@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Blocks are measured once for all runs of the script."""
    return {"SPACEEVO_CACHE": str(tmp_path_factory.mktemp("latencies"))}


def arguments(checkpoint, output, *more):
    return ["search_subnet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "053412-000000",
            "--checkpoint_path", str(checkpoint), "--output_path", str(output), "--latency_constraint", "1000",
            "--latency_delta", "1000", "--population_size", "4", "--mutation_size", "2", "--crossover_size", "2",
            "--max_time_budget", "2", "--valid_size", "60", "--batch_size", "30", "--num_calib_batches", "2",
            "--debug", "--debug_batches", "1", "--test_top_num", "2", *map(str, more)]


@pytest.fixture(scope="module")
def finished(checkpoint, environment, tmp_path_factory):
    """The folder of an uninterrupted run, and the run."""
    output = tmp_path_factory.mktemp("output") / "with a space"
    done = run_script(*arguments(checkpoint, output), env=environment)
    return output / str(SPACE) / "1000ms", done


def test_the_script_from_checkpoint_to_export_list(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert "warning: the checkpoint was trained on 60 of the 60 images" in done.stderr
    export, train = (shlex.split(line.partition(":")[2]) for line in done.stdout.splitlines()[-2:])
    assert export[:4] == ["python", "onnx_tools/export_onnx.py", "--input", str(folder / "export.csv")]
    assert train[:4] == ["python", "train_subnet.py", "--input", str(folder / "export.csv")]
    assert "--quant_mode" in export
    rows = read(folder / "subnets.csv")
    assert [row["round"] for row in rows] == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    assert {row["images"] for row in rows} == {"30"}
    assert [bool(row["test_acc1"]) for row in read(folder / "best.csv")] == [True] * 2
    assert "Test Acc1: " in folder.with_name("1000ms.log").read_text()
    assert json.loads((folder / "subnets.csv.json").read_text())["platform"] == ["onnxruntime_int8"]


def test_a_platform_of_fewer_bits_than_the_supernets_is_noted(checkpoint, environment, finished, tmp_path):
    done = run_script(*arguments(checkpoint, tmp_path, "--platform", "onnxruntime_w7a8"), env=environment)
    assert done.returncode == 0, done.stderr
    (note,) = [line for line in done.stderr.splitlines() if "weights of 7 bits" in line]
    assert "this supernet has 8" in note
    assert "--quant_weight_bits 7" in note
    assert "weights of" not in finished[1].stderr
    assert "--quant_weight_bits" not in done.stdout


def test_a_supernet_of_7_bits_is_trained_further_so(environment, tmp_path):
    seven = write_checkpoint(tmp_path / "seven", 7)
    done = run_script(*arguments(seven, tmp_path / "out", "--platform", "onnxruntime_w7a8"), env=environment)
    assert done.returncode == 0, done.stderr
    assert "weights of" not in done.stderr
    train = done.stdout.splitlines()[-1]
    assert "train_subnet.py" in train
    assert "--quant_weight_bits 7" in train


def test_a_killed_script_resumes_to_the_same_tables(checkpoint, environment, finished, tmp_path):
    command = arguments(checkpoint, tmp_path)
    process = subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, env=os.environ | environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / str(SPACE) / "1000ms.log"
    kill_when(process, lambda: log.exists() and log.read_text().count("arch:") > 5)
    folder = log.with_suffix("")
    assert not (folder / "best.csv").exists()
    resumed = run_script(*command, "--resume", env=environment)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("subnets.csv", "front.csv", "best.csv", "export.csv", "search.png"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name
    assert log.read_text() == finished[0].with_name("1000ms.log").read_text()


def test_bad_input_ends_with_one_line_and_status_2(checkpoint, environment, tmp_path, finished):
    assert finished[1].returncode == 0
    cases = [(("--platform", "toaster"), "toaster"), (("--method", "luck"), "luck"),
             (("--supernet_choice", "953412"), "block choice 9"), (("--population_size", "0"), "population_size 0"),
             (("--output_path", finished[0].parents[1]), "continue it with --resume")]
    for more, message in cases:
        done = run_script(*arguments(checkpoint, tmp_path, *more), env=environment)
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("search_subnet.py: error: ")
        assert message in last


@pytest.mark.slow
def test_two_processes_find_what_one_finds(checkpoint, environment, finished, tmp_path):
    done = run_script("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port",
                      free_port(), *arguments(checkpoint, tmp_path), env=environment)
    assert done.returncode == 0, done.stderr
    for name in ("subnets.csv", "best.csv"):
        assert (tmp_path / str(SPACE) / "1000ms" / name).read_bytes() == (finished[0] / name).read_bytes()
