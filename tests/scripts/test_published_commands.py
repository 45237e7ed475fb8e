"""The commands of the published README: each parses as printed, and runs at small settings, which are appended to it.

`{ckpt}` stands for ${CHECKPOINT_DIR}, `{images}` for the path of ImageNet, `{space}` for <superspace>, `{subnet}` for
<subnet_choice>.
"""
import dataclasses
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from image_trees import digit_folder
from processes import run_script

from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.utils import cli
from modules.utils.checkpoint import save_checkpoint
from modules.utils.files import REPOSITORY

LAUNCH = "python -m torch.distributed.launch --nproc_per_node"
TEACHER = "{ckpt}/block_kd/teacher_checkpoint/efficientnet_b5/checkpoint.pth"
SUBNET = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#24#40#56#96#128_e0#0.5#0#0#0#0#0#0_r32"

SEARCHES = {
    "search onnxw": "python search_block_kd.py --superspace onnxw --latency_constraint 10 --platform onnx_lut "
                    "--latency_loss_t 0.08 --latency_loss_a 0.01 --lut_path data/block_lut "
                    "--output_dir {ckpt}/block_kd/search",
    "search mobilew": "python search_block_kd.py --superspace mobilew --latency_constraint 15 20 "
                      "--platform tflite27_cpu_int8 --latency_loss_t 0.08 --latency_loss_a 0.01 "
                      "--lut_path data/block_lut --output_dir {ckpt}/block_kd/search",
    "score": "python search_block_kd.py --superspace onnxw --latency_constraint 15 --platform onnx_lut "
             "--latency_loss_t 0.08 --supernet_choices 111111_000000 222222_000000",
}
SPECIFIC = {f"{name} {mode}": f"python eval_specific_net.py --model_name {name} --dataset_dir {{images}}{mode}"
            for name in ("spaceevo@vnni", "SEQnet@pixel4-A0", "SEQnet@vnni-A0") for mode in ("", " --quant_mode")}
BLOCKS = {
    "train blocks": f"{LAUNCH}=4 train_block_kd.py --superspace {{space}} --output_path {{ckpt}}/block_kd/{{space}} "
                    "--inplace_distill_from_teacher --num_epochs 5 --stage_list stage1_0 stage1_2 "
                    "--hw_list 160 192 224 --dataset_path {images}",
    "lsq blocks": f"{LAUNCH}=4 lsq_block_kd.py --superspace {{space}} --output_path {{ckpt}}/block_kd/{{space}} "
                  "--inplace_distill_from_teacher --num_epochs 1 --stage_list stage1_0 stage1_2 "
                  "--hw_list 160 192 224 --dataset_path {images} "
                  f"--teacher_checkpoint_path {TEACHER} --train_batch_size 32 "
                  "--learning_rate_list 0.00125 0.00125 0.00125 0.00125 0.00125 0.00125",
    "tables": "python eval_block_kd.py --superspace {space} --platform onnx_lut --output_path {ckpt}/block_kd/lut "
              "--stage_list stage3_0 stage3_1 --width_window_filter 0 1 2 --hw_list 160 192 224 "
              f"--dataset_path {{images}} --checkpoint_path {{ckpt}}/block_kd --teacher_checkpoint_path {TEACHER} "
              "--debug",
}
TRAINING = f"{LAUNCH} 8 train_supernet.py --config-file supernet_training_configs/train.yaml --superspace mobilew " \
           "--supernet_choice 123214-012321"
EVALUATION = "python eval_supernet.py --superspace onnxw --supernet_choice 121122-133333"
SUPERNETS = {
    "train": f"{TRAINING} --batch_size_per_gpu 64 --resume",
    "train int8": f"{TRAINING} --batch_size_per_gpu 32 --quant_mode",
    "search subnet": f"{LAUNCH} 4 search_subnet.py --superspace onnxw --supernet_choice 121122-133333 "
                     "--dataset_path {images} --output_path {ckpt}/search_subnet "
                     "--checkpoint_path {ckpt}/supernet_training --latency_constraint 15 --latency_delta 2 "
                     "--batch_size 32 --num_calib_batches 20",
    "accuracy": f"{EVALUATION} --mode acc --resume {{ckpt}}/supernet_training --dataset_dir {{images}} "
                "--subnet_choice {subnet} {subnet}",
    "accuracy int8": f"{EVALUATION} --mode acc --resume {{ckpt}}/supernet_training --dataset_dir {{images}} "
                     "--subnet_choice {subnet} --quant_mode",
    "latency": f"{EVALUATION} --mode lat --subnet_choice {{subnet}} {{subnet}}",
}
DEVICES = {
    "export onnx": "python onnx_tools/export_onnx.py --skip_weights",
    "benchmark onnx": "python onnx_tools/benchmark.py",
    "benchmark tflite": "python tflite_tools/benchmark.py",
}
DOWNSTREAM = {name: f"python downstream_cls.py --subnet_name {name} --dataset CIFAR10 --imagenet_path {{images}}"
              for name in ("SEQnet@vnni-A0", "SeqNet@vnni-A0")}  # it is spelled in both ways
COMMANDS = SEARCHES | SPECIFIC | BLOCKS | SUPERNETS | DEVICES | DOWNSTREAM


@pytest.mark.parametrize("name", COMMANDS)
def test_a_published_command_parses_as_printed(name, monkeypatch):
    class Parsed(BaseException):
        pass

    def stop(self, *args, **kwargs):
        raise Parsed(parse(self, *args, **kwargs))

    words = arguments(COMMANDS[name].replace("{space}", "onnxw").format(ckpt="c", images="i", subnet=SUBNET))
    parse = cli.Parser.parse_args
    monkeypatch.setattr(cli.Parser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [str(REPOSITORY / words[0]), *words[1:]])
    with pytest.raises(Parsed) as parsed:
        runpy.run_path(sys.argv[0], run_name="__main__")
    given = vars(parsed.value.args[0])
    renamed = {"config-file": "config_file", "dataset_dir": "dataset_path"}
    for flag in (word[2:] for word in words if word.startswith("--")):
        assert given[renamed.get(flag, flag)] not in (None, False, "", []), flag


def arguments(command: str) -> list[str]:
    """Script and arguments of a command, without interpreter and launcher."""
    return shlex.split(re.sub(r"^python (-m torch\.distributed\.launch --nproc_per_node[= ]\d+ )?", "", command))


def run(command: str, settings: str = "", **values: str | Path) -> str:
    """The output of a command with its small settings appended; a launcher starts one process."""
    text = re.sub(r"(--nproc_per_node[= ])\d+", r"\g<1>1 --standalone", f"{command} {settings}")
    words = shlex.split(text.format(**values))
    done = run_script(*words[1:], timeout=600)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-2000:]}"
    return done.stdout


def test_published_spaces_are_scored_on_the_published_tables(tmp_path):
    """The command as printed, and two spaces whose scores the published program gave: the means of 20 evaluations."""
    assert set(scores(run(SEARCHES["score"], "--output_dir {ckpt}", ckpt=tmp_path))) == {
        "111111_000000", "222222_000000"}
    others = "--output_dir {ckpt} --supernet_choices 151122_023231 121122_133333"
    assert scores(run(SEARCHES["score"], others, ckpt=tmp_path)) == {"151122_023231": pytest.approx(0.4252, abs=0.005),
                               "121122_133333": pytest.approx(0.4238, abs=0.005)}


def scores(printed: str) -> dict[str, float]:
    """The score of each space that is named."""
    return {name: float(score) for name, score in re.findall(r"arch:(\d+_\d+)-score:([\d.]+)", printed)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search onnxw", "search mobilew"])
def test_published_searches_run(name, tmp_path):
    printed = run(SEARCHES[name], "--population_size 30 --parent_size 10 --cycles 60", ckpt=tmp_path)
    assert re.search(r"best space (onnxw|mobilew)-\d{6}-\d{6}", printed)


def test_latencies_of_subnets_are_predicted(tmp_path):
    widths = "16#16#32#32#48#48#80#80#128#128#224#224#320"
    subnet = f"d1#1#2#2#2#2#2#1_k{'#'.join(['3'] * 13)}_w{widths}_e0#0.5#0#0#{'#'.join(['4.0'] * 9)}_r160"
    printed = run(SUPERNETS["latency"], "--supernet_choice 011111-011111 --output {ckpt} --platform onnx_lut",
                  ckpt=tmp_path, subnet=subnet)
    assert len(re.findall(r"\d\.\d\dms", printed)) == 2


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of images in ten classes, where the commands want ImageNet."""
    return digit_folder(tmp_path_factory.mktemp("imagenet"), train=340, val=60)


@pytest.mark.slow
def test_block_distillation_and_tables(images, tmp_path):
    values = {"images": images, "ckpt": tmp_path, "space": "onnxw_tiny"}
    teacher = "python -m modules.block_kd.teacher --num_epochs 1 --train_batch_size 32 --num_workers 0 " \
              "--output_path {ckpt}/teacher"
    run(teacher, "--dataset_path {images} --teacher_arch efficientnet-tiny --resolution 48 64", **values)
    run(teacher, "--dataset_path {images} --quant_mode", **values)
    small = "--teacher_arch efficientnet-tiny --teacher_checkpoint_path {ckpt}/teacher/%s --num_workers 0 " \
            "--valid_size 100 --hw_list 48 64 --num_calib_batches 2"
    stages = " --num_epochs 1 --stage_list stage3_0 stage3_1 --debug"
    run(BLOCKS["train blocks"], small % "checkpoint.pth" + stages, **values)
    run(BLOCKS["lsq blocks"], small % "lsq.pth" + stages, **values)
    run(BLOCKS["tables"], small % "lsq.pth" + " --num_samples_per_stage 2", **values)
    tables = sorted(path.name for path in (tmp_path / "block_kd" / "lut" / "onnxw_tiny").glob("*.csv"))
    assert tables == [f"stage3_{block}_{window}.csv" for block in (0, 1) for window in (0, 1, 2)]


@pytest.mark.slow
def test_supernet_from_training_to_evaluation(images, tmp_path):
    values = {"images": images, "ckpt": tmp_path, "subnet": SUBNET}
    space = "--superspace onnxw_tiny --supernet_choice 000000-000000 "
    small = space + "--dataset_path {images} --resolutions 32 --epochs 1 --quant_epochs 1 --debug_batches 2 " \
                    "--valid_batches 1 --data_loader_workers_per_gpu 0 --models_save_dir {ckpt}/supernet_training " \
                    "--batch_size_per_gpu 16 --post_bn_calibration_batch_num 2"
    run(SUPERNETS["train"], small, **values)  # with --resume, where nothing is yet
    run(SUPERNETS["train int8"], small, **values)
    quick = space + "--post_bn_calibration_batch_num 2 --debug --output {ckpt}"
    for name in ("accuracy", "accuracy int8"):
        run(SUPERNETS[name], quick, **values)
    run(SUPERNETS["search subnet"], space + "--latency_delta 14.99 --population_size 4 --mutation_size 2 "
        "--crossover_size 2 --max_time_budget 1 --num_calib_batches 2 --valid_size 60", **values)


@pytest.mark.slow
def test_export_and_benchmark(tmp_path):
    (tmp_path / "input.csv").write_text(f"onnxw_tiny,000000-000000,{SUBNET}\n")
    listed, runs = "--input {ckpt}/input.csv ", "--output {ckpt}/latency_%s.csv --num_runs 3 --warmup_runs 1"
    run(DEVICES["export onnx"], listed + "--output_dir {ckpt}", ckpt=tmp_path)
    for name in ("onnx", "tflite"):
        printed = run(DEVICES[f"benchmark {name}"], listed + "--model_dir {ckpt} " + runs % name, ckpt=tmp_path)
        assert "int8" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spaceevo@vnni", "SEQnet@vnni-A0"])
def test_published_networks_are_evaluated_and_fine_tuned(name, tmp_path):
    supernet = Supernet.build_from_str("onnxw-151122-023231", 10)
    record = ModelRecord(str(supernet.config), supernet.subnets.resolutions, tuple(f"class{i}" for i in range(10)),
                         "folder", training={"augment": "default"})
    folder = tmp_path / "supernet_training" / "spaceevo@vnni"
    save_checkpoint(folder / "checkpoint.pth", {"state_dict": supernet.state_dict(), "config": record.to_dict()})
    QuantMode().apply(supernet)
    record = dataclasses.replace(record, quant=QuantMode())
    save_checkpoint(folder / "lsq.pth", {"state_dict": supernet.state_dict(), "config": record.to_dict()})
    values = {"images": digit_folder(tmp_path / "images", train=40, val=10), "ckpt": tmp_path}
    for mode in ("", " --quant_mode"):
        printed = run(SPECIFIC[f"{name} {mode}"], "--resume {ckpt}/supernet_training --batch_size_per_gpu 8 --debug "
                      "--debug_batches 1 --post_bn_calibration_batch_num 1", **values)
        assert re.search(r"acc1?=\d", printed)
    if name.startswith("SEQnet"):
        run(DOWNSTREAM["SeqNet@vnni-A0"], "--dataset folder --dataset_path {images} --epochs 1 --batch_size 16 "
            "--augment default --num_workers 0 --checkpoint_path {ckpt}/supernet_training "
            "--output_dir {ckpt}/downstream", **values)
        assert list((tmp_path / "downstream").glob("SEQnet@vnni-A0_folder.pth"))
