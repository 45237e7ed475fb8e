"""Every long script, killed again and again without warning: it ends with the files of the run that was not disturbed.

    python -m pytest -m slow tests/scripts/test_kills.py -s          ten kills of each, counted
    KILLS=30 python -m pytest -m slow tests/scripts/test_kills.py -s

One kill of each is in the fast suite, beside the other tests of the script.
"""
import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from modules.utils.checkpoint import load_checkpoint
from modules.utils.files import REPOSITORY

KILLS = int(os.environ.get("KILLS", 10))
SPACE = "--superspace onnxw_tiny --supernet_choice 000000-000000"
TEACHER = "-m modules.block_kd.teacher --dataset digits --teacher_arch efficientnet-tiny --resolution 48 " \
          "--num_workers 0 --print_freq 1 --checkpoint_minutes 0 --output_path {out}"
STUDENTS = "--superspace onnxw_tiny --teacher_arch efficientnet-tiny --num_workers 0 --hw_list 48 " \
           "--stage_list stage1_0 stage1_2"
TRAINING = f"train_supernet.py {SPACE} --config-file supernet_training_configs/digits.yaml --resolutions 32 " \
           "--batch_size_per_gpu 16 --epochs 3 --quant_epochs 3 --debug_batches 5 --valid_freq 1 --valid_batches 1 " \
           "--post_bn_calibration_batch_num 1 --checkpoint_minutes 0 --print_freq 1 --models_save_dir {out}"
SUBNET = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#24#40#56#96#128_e0#0.5#0#0#0#0#0#0_r32"
# {whole} has the undisturbed results of the others.
COMMANDS = {
    "teacher": f"{TEACHER} --num_epochs 2 --train_batch_size 96",
    "students": f"train_block_kd.py {STUDENTS} --dataset digits --valid_size 100 --train_batch_size 32 --num_epochs 3 "
                "--train_batches 4 --num_calib_batches 1 --print_freq 1 --checkpoint_minutes 0 "
                "--teacher_checkpoint_path {whole}/teacher/checkpoint.pth --output_path {out}/onnxw_tiny",
    "tables": f"eval_block_kd.py {STUDENTS} --fp32_mode --platform onnx_lut --num_samples_per_stage 8 "
              "--rows_per_pass 1 --num_calib_batches 1 --teacher_checkpoint_path {whole}/teacher/checkpoint.pth "
              "--checkpoint_path {whole}/students --output_path {out}",
    "spaces": "search_block_kd.py --superspace onnxw_tiny --lut_path data/block_lut --latency_constraint 0.3 "
              "--latency_loss_t 0.08 --population_size 20 --parent_size 5 --cycles 20000 --output_dir {out}",
    "supernet": TRAINING,
    "int8": f"{TRAINING} --quant_mode --init_checkpoint {{whole}}/supernet/onnxw_tiny-000000-000000-align0/"
            "checkpoint.pth",
    "subnets": f"search_subnet.py {SPACE} --checkpoint_path {{whole}}/int8 --platform onnx_lut "
               "--latency_constraint 1000 --latency_delta 1000 --population_size 4 --mutation_size 2 "
               "--crossover_size 2 --max_time_budget 5 --valid_size 60 --batch_size 30 --num_calib_batches 1 "
               "--debug --debug_batches 1 --test_top_num 1 --output_path {out}",
    "structures": "zen_nas/search.py --init_structure SuperConvK3BNRELU(3,8,1,1)SuperResIDWE1K3(8,16,1,8,1)"
                  "SuperConvK1BNRELU(16,32,1,1) --evolution_max_iter 200 --population_size 8 --budget_flops 5e6 "
                  "--batch_size 4 --input_image_size 16 --max_layers 12 --save_dir {out}",
    "bits": f"adj_quant/train.py {SPACE} --subnet_choice {SUBNET} --checkpoint_path {{whole}}/supernet "
            "--bits_trainable --max_epoch 4 --batch_size 8 --num_calib_batches 1 --valid_size 60 --output_dir {out}",
}
SECONDS, QUICK = (1, 8), {"spaces": (0.5, 3), "structures": (0.5, 3)}  # from the first line to a kill; of quick ones
TIMES = {"seconds", "time", "created", "date", "logs", "command", "argv", "duration"}


def start(name: str, out: Path, whole: Path) -> subprocess.Popen:
    words = COMMANDS[name].format(out=out, whole=whole).split()
    return subprocess.Popen([sys.executable, *words, "--resume"], cwd=REPOSITORY, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed[-3000:]
    return printed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the results of each command, undisturbed; made by `undisturbed`."""
    return tmp_path_factory.mktemp("whole")


def undisturbed(name: str, whole: Path) -> Path:
    """The results of `name`, and before it those of the commands that it reads."""
    if not (whole / name).exists():
        for other in COMMANDS:
            if f"{{whole}}/{other}" in COMMANDS[name]:
                undisturbed(other, whole)
        finish(start(name, whole / name, whole))
    return whole / name


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_that_is_killed_ten_times_ends_as_undisturbed(name, whole, tmp_path, capsys):
    expected, rng, kills = undisturbed(name, whole), random.Random(name), 0
    while kills < KILLS and killed(start(name, tmp_path / "out", whole), rng, QUICK.get(name, SECONDS)) != 0:
        kills += 1
    finish(start(name, tmp_path / "out", whole))
    with capsys.disabled():
        print(f"\n{name}: {kills} kills")
    assert kills
    compare(expected, tmp_path / "out")


def killed(process: subprocess.Popen, rng: random.Random, within: tuple[float, float]) -> int:
    """Kill `process` after some lines of its output, or some seconds (`within`) after the first; returns its status, 0
    if it had ended before."""
    lines, seconds, timer = rng.randint(2, 6), rng.uniform(*within), None
    for number, _ in enumerate(process.stdout, 1):
        if timer is None:
            timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
        if number == lines:
            os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if timer is not None:
        timer.cancel()
    process.stdout.close()
    return status


def compare(expected: Path, found: Path) -> None:
    """The same files, but for logs and figures, with the same contents, but for times."""
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
                    and path.suffix in {".pth", ".csv", ".json", ".txt"} and not path.name.endswith(".pth.json"))
             for folder in (expected, found)]
    assert names[0] == names[1]
    assert names[0]
    for name in names[0]:
        a, b = (contents(folder / name) for folder in (expected, found))
        assert same(a, b), name


def contents(path: Path):
    if path.suffix == ".pth":
        return load_checkpoint(path)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    return path.read_text()


def same(a, b) -> bool:
    """Equal to the bit; entries that tell a time, or a folder of the run, do not count."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[key], b[key]) for key in a if key not in TIMES)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, str) and (Path(a).is_absolute() and Path(b).is_absolute()))
