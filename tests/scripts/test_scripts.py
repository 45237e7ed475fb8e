"""The command lines: help at once, bad input in one line with exit status 2, the published formats of their output."""
import csv
import re
import runpy

import pytest
from command_lines import FOLDERS, scripts
from processes import run_script

from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.utils.checkpoint import save_checkpoint
from modules.utils.files import REPOSITORY

SPACE = "onnxw_tiny-000000-000000"
SMALLEST = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#24#40#56#96#128_e0#0.5#0#0#0#0#0#0_r32"


@pytest.mark.parametrize("name", scripts(*FOLDERS))
def test_help_needs_no_heavy_import(name):
    code = ("import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "finally: print(sorted({'torch', 'torchvision', 'onnx', 'onnxruntime', 'matplotlib', 'sklearn', "
            "'ai_edge_litert'} & set(sys.modules)))")
    done = run_script("-c", code, name)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
    assert "usage:" in done.stdout


KD = ("train_block_kd.py", "--superspace", "onnxw_tiny", "--dataset", "digits", "--valid_size", "9", "--output_path",
      "{tmp}")
EVAL = ("eval_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice")


@pytest.mark.parametrize(("command", "words"), [
    (("train_supernet.py", "--superspace", "nowhere"), ["'nowhere'", "onnxw_tiny", "mobilew"]),
    (("train_supernet.py", "--superspace", "onnxw", "--supernet_choice", "15112-023231"), ["15112", "6 are needed"]),
    (("train_supernet.py", "--superspace", "onnxw", "--supernet_choice", "151192-023231"), ["9", "stage5", "0 to 5"]),
    (("train_supernet.py", "--superspace", "onnxw", "--supernet_choice", "151122-923231"), ["9", "stage1", "0 to 1"]),
    (("train_supernet.py", "--superspace", "onnxw", "--supernet_choice", "abc"), ["'abc'"]),
    (("train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000", "--config-file", "no.yaml"),
     ["'no.yaml'"]),
    (("train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000", "--epochs", "few"),
     ["'few'", "--epochs", "INT"]),
    (("train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000", "--dataset_path", "nowhere",
      "--models_save_dir", "{tmp}"), ["nowhere"]),
    (("train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000", "--dataset", "MNIST9",
      "--models_save_dir", "{tmp}"), ["'MNIST9'", "digits", "CIFAR10"]),
    (("train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000", "--dataset", "digits",
      "--models_save_dir", "{tmp}", "--quant_mode"), ["checkpoint.pth", "does not exist"]),
    ((*KD, "--teacher_arch", "resnet9"), ["'resnet9'", "efficientnet-b5"]),
    ((*KD, "--teacher_checkpoint_path", "{tmp}/none.pth"), ["none.pth", "does not exist"]),
    ((*KD, "--teacher_checkpoint_path", "{tmp}/half.pth"), ["half.pth", "is damaged"]),
    ((*KD, "--teacher_checkpoint_path", "{tmp}/good.pth"), ["good.pth", "'model'"]),
    ((*KD, "--stage_list", "stage0_1"), ["stage0_1", "stage1_0"]),
    (("eval_block_kd.py", "--superspace", "onnxw_tiny", "--platform", "abacus", "--teacher_checkpoint_path",
      "{tmp}/none.pth"), ["none.pth", "does not exist"]),
    ((*EVAL, "000000", "--resume", "{tmp}"), ["checkpoint.pth", "does not exist"]),
    ((*EVAL, "000000", "--resume", "{tmp}/none.pth"), ["none.pth' does not exist"]),
    ((*EVAL, "000000", "--resume", "{tmp}/half.pth"), ["half.pth", "is damaged"]),
    ((*EVAL, "000000", "--resume", "{tmp}/good.pth", "--quant_mode"), ["fp32", "lsq.pth"]),
    ((*EVAL, "111111", "--resume", "{tmp}/good.pth"), [SPACE, "not of onnxw_tiny-111111"]),
    ((*EVAL, "000000", "--resume", "{tmp}/good.pth", "--subnet_choice", "d1_k3"), ["'d1_k3'", "d..._k..._w"]),
    ((*EVAL, "000000", "--resume", "{tmp}/good.pth", "--subnet_choice", SMALLEST.replace("w8#8#16", "w8#8#99")),
     ["width 99", "stage1", "16, 24"]),
    ((*EVAL, "000000", "--resume", "{tmp}/good.pth", "--dataset_path", "{tmp}/empty"), ["empty"]),
    ((*EVAL, "000000", "--mode", "lat", "--platform", "abacus"), ["'abacus'", "onnxruntime_int8", "nn_meter:NAME"]),
    ((*EVAL, "000000", "--mode", "lat", "--platform", "onnx_lut", "onnx_lut"), ["onnx_lut", "twice"]),
    ((*EVAL, "000000", "--mode", "lat", "--latency_table", "a.json", "b.json"), ["a.json b.json", "1 platforms"]),
    ((*EVAL, "000000", "--mode", "lat", "--latency_table", "{tmp}/none.json"), ["none.json"]),
    ((*EVAL, "000000", "--mode", "lat", "--platform", "nn_meter:x"), ["nn_meter:x"]),
    (("eval_specific_net.py", "--model_name", "SEQnet@vnni-A9"), ["SEQnet@vnni-A9", "SEQnet@vnni-A0"]),
    (("eval_specific_net.py", "--model_name", "seqnet@VNNI-a0", "--resume", "{tmp}"), ["spaceevo@vnni"]),
    (("onnx_tools/export_onnx.py", "--input", "{tmp}/none.csv"), ["none.csv"]),
    (("onnx_tools/export_onnx.py", "--input", "{tmp}/bad.csv"), ["line 2", "bad.csv", "superspace,choice,subnet"]),
    (("onnx_tools/eval_onnx.py", "--model_path", "{tmp}/none.onnx"), ["none.onnx"]),
    (("onnx_tools/benchmark.py", "--model_dir", "{tmp}"), [".onnx", "does not exist"]),
])
def test_bad_input_ends_with_one_line_and_status_2(command, words, tmp_path, capsys, monkeypatch):
    good = {"state_dict": Supernet.build_from_str(SPACE, 10).state_dict(),
            "config": ModelRecord(SPACE, (32, 48, 64), tuple("0123456789"), "digits").to_dict()}
    save_checkpoint(tmp_path / "good.pth", good)
    content = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "bad.csv").write_text("# list\nonnxw_tiny,000000\n")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir()
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("sys.argv", [part.replace("{tmp}", str(tmp_path)) for part in command])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(command[0], run_name="__main__")
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0], lines[0]
    assert (tmp_path / "good.pth").read_bytes() == content


def test_evaluation_writes_a_table_and_latencies(tmp_path):
    model = Supernet.build_from_str(SPACE, 10, (32,))
    save_checkpoint(tmp_path / "x.pth", {"state_dict": model.state_dict(), "config": ModelRecord(
        SPACE, (32,), tuple("0123456789"), "digits", training={"augment": "default"}).to_dict()})
    done = run_script(*EVAL, "000000", "--resume", str(tmp_path / "x.pth"), "--output", str(tmp_path), "--debug",
                      "--post_bn_calibration_batch_num", "2", "--subnet_choice", SMALLEST)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "accuracy.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["enc"] == SMALLEST
    assert row["images"] == "96"
    assert float(row["acc1_low"]) <= float(row["acc1"]) <= float(row["acc1_high"])
    done = run_script(*EVAL, "000000", "--mode", "lat", "--subnet_choice", SMALLEST, "--output", str(tmp_path))
    encoding, latency = done.stdout.split()
    with open(tmp_path / "predicted_latency.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["enc"], row["platform"]) == (SMALLEST, "onnxruntime_int8")
    assert f"{float(row['latency_ms']):.2f}ms" == latency
    assert encoding == SMALLEST
    assert latency.endswith("ms")
    assert 0.01 < float(latency[:-2]) < 1000


def test_latencies_on_several_platforms(tmp_path):
    widths = "16#16#32#32#48#48#80#80#128#128#224#224#320"
    subnet = f"d1#1#2#2#2#2#2#1_k{'#'.join(['3'] * 13)}_w{widths}_e0#0.5#{'#'.join(['0'] * 11)}_r176"
    (tmp_path / "t.json").write_text('{"FirstConvBlock_176_3_16_3_None_2_relu": 1000}')
    common = ("eval_supernet.py", "--superspace", "onnxw", "--mode", "lat", "--output", str(tmp_path), "--platform",
              "onnx_lut", "tflite27_cpu_int8", "--latency_table", str(tmp_path / "t.json"), "-", "--supernet_choice")
    done = run_script(*common, "000000-011111", "--subnet_choice", subnet)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[::2] for line in lines] == [[subnet, "onnx_lut"], [subnet, "tflite27_cpu_int8"]]
    assert re.fullmatch(r"10\d\d\.\d\dms", lines[0][1])  # the table's absurd first layer, the model's rest
    assert re.fullmatch(r"~\d\d?\.\d\dms", lines[1][1])  # not a space of that phone's tables
    with open(tmp_path / "predicted_latency.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["extrapolated"] for row in rows] == ["0", "1"]
    assert [f"{float(row['latency_ms']):.2f}ms" for row in rows] == [line[1].lstrip("~") for line in lines]
    assert all(0 < float(row["std_ms"]) < 0.2 * float(row["latency_ms"]) for row in rows)
    done = run_script(*common, "000000-000000", "151122-023231", "--num_samples", "30")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"min \d+\.\d\dms, median \d+\.\d\dms, max \d+\.\d\dms of 30 subnets", done.stdout)) == 4
    assert (tmp_path / "onnxw-latency_cdf.png").read_bytes()[:4] == b"\x89PNG"


def test_interrupt_ends_with_status_130(tmp_path):
    code = ("import sys; sys.argv[0] = 'x.py'; from modules.utils.cli import run\n"
            "def main(): raise KeyboardInterrupt\nrun(main)")
    done = run_script("-c", code)
    assert done.returncode == 130
    assert done.stderr.strip() == "x.py: interrupted"
