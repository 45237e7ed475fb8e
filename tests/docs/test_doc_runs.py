"""The commands of a page run one after the other, as printed, in an empty folder; small settings are appended.

Left out: commands with a placeholder for something that no test has (ImageNet, a phone, a board). A supernet of onnxw,
whose training takes days, has random weights.
"""
import glob
import os
import shlex
import subprocess
import sys

import pytest
from test_doc_commands import PAGES, commands, script_of

from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.utils.checkpoint import save_checkpoint
from modules.utils.files import REPOSITORY

SUBNET = "d1#1#2#1#2#2#2#1_k3#3#7#7#5#3#5#5#5#3#3#5_w8#16#16#24#32#64#56#72#56#96#112#128_" \
         "e0#0.5#1.0#1.0#4.0#6.0#4.0#6.0#6.0#0#0#6.0_r32"
TRAINING = "--epochs 1 --quant_epochs 1 --debug_batches 2 --valid_batches 1 --post_bn_calibration_batch_num 1"
STAGES = "--stage_list stage1_0 stage1_1 --num_calib_batches 1"
SMALL = {
    "modules.block_kd.teacher": "--num_epochs 1 --debug",
    "train_block_kd.py": f"--train_batches 2 {STAGES}",
    "lsq_block_kd.py": f"--train_batches 2 --num_epochs 1 {STAGES}",
    "eval_block_kd.py": f"--num_samples_per_stage 2 {STAGES}",
    "search_block_kd.py": "--cycles 40 --population_size 12 --parent_size 4 --lut_path data/block_lut",
    "train_supernet.py": TRAINING, "train_subnet.py": TRAINING,
    "search_subnet.py": "--population_size 4 --mutation_size 2 --crossover_size 2 --max_time_budget 1 --debug "
                        "--debug_batches 1 --num_calib_batches 1 --test_top_num 1 --latency_delta 1000",
    "eval_supernet.py": "--post_bn_calibration_batch_num 1",
    "downstream_cls.py": "--epochs 1",
    "zen_nas/score.py": "--repeat 2 --batch_size 2", "zen_nas/search.py": "--evolution_max_iter 8 --population_size 4",
    "zen_nas/rank.py": "--rows 1 --batch_size 2",
}
PLACEHOLDERS = ("/path/to", "FOLDER", "photos", "CIFAR10", "my_cpu", "--device", "--adb", "$")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["pipeline", "zero_shot"])
def test_the_commands_of_a_page_run(page, tmp_path):
    for entry in REPOSITORY.iterdir():
        if entry.name not in {"checkpoints", "results", "demo_output"}:
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "subnets.csv").write_text(f"onnxw_tiny,512202-012000,{SUBNET}\n")
    write_onnxw_supernet(tmp_path / "checkpoints" / "supernet_training" / "onnxw-151122-023231-align0" / "lsq.pth")
    (path,) = [path for path in PAGES if path.stem == page]
    calls = [script_of(command) for command in commands(path) if not any(word in command for word in PLACEHOLDERS)]
    assert len(calls) >= 5
    for kind, name, arguments in calls:
        words = [name, *(found for word in arguments for found in (sorted(glob.glob(str(tmp_path / word))) or [word]
                                                                   if "*" in word else [word]))]
        command = [sys.executable, *([kind] if kind else []), *words, *shlex.split(SMALL.get(name, ""))]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=900,
                              env=os.environ | {"SPACEEVO_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"


def write_onnxw_supernet(path):
    supernet = Supernet.build_from_str("onnxw-151122-023231", 10)
    QuantMode().apply(supernet)
    record = ModelRecord(str(supernet.config), supernet.subnets.resolutions, tuple("0123456789"), "digits",
                         quant=QuantMode(), training={"augment": "default"})
    save_checkpoint(path, {"state_dict": supernet.state_dict(), "config": record.to_dict()})
