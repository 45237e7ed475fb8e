"""Baselines, profiles, benchmark: the tools around the ONNX files."""
import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deploy_nets import quantized, subnet
from onnx import numpy_helper
from processes import run_script

from modules.deploy.check.agreement import compare
from modules.deploy.graph.lower import lower
from modules.deploy.to_onnx.op_profile import OperatorTime, plot_profiles, profile_operators
from modules.deploy.to_onnx.static_baseline import static_quantized
from modules.deploy.to_onnx.writer import write_onnx
from modules.runtime.engines import engines
from modules.runtime.openvino import open_openvino
from modules.runtime.ort import open_session, optimized_ops
from modules.runtime.session import predict
from modules.search_space.published import find_published, published_name
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

SMALLEST = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#24#40#56#96#128_e0#0.5#0#0#0#0#0#0_r32"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small net's fp32 and int8 file, and images."""
    folder = tmp_path_factory.mktemp("files")
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    net = subnet("onnxw_tiny-053412-000000")
    write_onnx(lower(net), folder / "net.onnx")
    write_onnx(lower(quantized(net, images), [images]), folder / "net_int8.onnx")
    return folder, images.numpy()


def test_static_quantisation_of_the_same_net(files):
    folder, images = files
    path = static_quantized(folder / "net.onnx", [images])
    operators = optimized_ops(path, folder)
    assert operators["QLinearConv"] == optimized_ops(folder / "net_int8.onnx", folder)["QLinearConv"]
    assert "Conv" not in operators
    fp32, int8 = predict(open_session(folder / "net.onnx"), images), predict(open_session(path), images)
    assert 0 < (int8 - fp32).std() < 0.3 * fp32.std()
    kept = path.stat().st_mtime_ns
    assert static_quantized(folder / "net.onnx").stat().st_mtime_ns == kept
    os.utime(path, ns=(0, 0))  # older than its source: made again
    assert static_quantized(folder / "net.onnx", [images[:2]]).stat().st_mtime_ns > 0
    assert sorted(p.name for p in folder.iterdir()) == ["net.onnx", "net_int8.onnx", "net_static_int8.onnx"]


def weights_of_7_bits(source, path):
    """The int8 file `source` with its int8 weights halved, as `path`."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) // 2, tensor.name))
    onnx.save(model, path)
    return path


def test_openvino_gives_the_same_answers(files):
    """To a tenth of the spread of the logits. Without VNNI OpenVINO adds pairs of products in 16 bits: they saturate
    with weights of 8 bits, not with those of 7."""
    pytest.importorskip("openvino", reason="openvino is an optional package")
    folder, images = files
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    path = folder / "net_int8.onnx"
    if "vnni" not in flags:
        path = weights_of_7_bits(path, folder / "net_7_bits.onnx")
    session, other = open_openvino(path), open_session(path)
    image = images[:1]
    assert session.get_inputs()[0].name == "input"
    assert session.get_inputs()[0].shape == [1, 3, 32, 32]
    result, expected = session.run(None, {"input": image})[0], predict(other, image)
    assert np.abs(result - expected).std() < 0.1 * expected.std()
    with pytest.raises(UserError, match="does not exist"):
        open_openvino(folder / "none.onnx")
    (folder / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="OpenVINO"):
        open_openvino(folder / "bad.onnx")
    (folder / "bad.onnx").unlink()


def test_profile_lists_the_operators_that_run(files, tmp_path):
    folder, _ = files
    entries = profile_operators(folder / "net_int8.onnx", runs=5, warmup=2)
    assert {entry.operator: entry.nodes for entry in entries} == optimized_ops(folder / "net_int8.onnx", folder)
    assert entries == sorted(entries, key=lambda entry: -entry.ms)
    assert entries[0].ms > 0
    plot_profiles({"int8": entries, "other": [OperatorTime("Conv", 3, 0.5)]}, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 5000


def test_memory_is_that_of_the_weights_at_least(tmp_path):
    weights = np.zeros((4096, 4096), np.float32)  # 67 MB
    node = onnx.helper.make_node("MatMul", ["input", "w"], ["output"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("input", 1, [1, 4096])], [value("output", 1, [1, 4096])],
                                   [onnx.numpy_helper.from_array(weights, "w")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / "big.onnx")
    peak = engines["onnxruntime"].peak_memory_mb(tmp_path / "big.onnx")
    if peak is None:
        pytest.skip("the system does not tell a process's memory")
    assert 60 < peak < 400


def test_agreement_reports_the_margin_of_the_differing_images():
    class Fixed:
        """A session whose logits are given."""

        def __init__(self, logits):
            self.logits = logits

        def get_inputs(self):
            from types import SimpleNamespace
            return [SimpleNamespace(name="input", shape=(1, 3, 4, 4))]

        def run(self, _, feeds):
            return [self.logits[:len(feeds["input"])]]

    ours = np.float32([[3, 1, 0], [2, 1.9, 0], [0, 0.5, 0.4], [0, 0, 9]])
    theirs = np.float32([[3, 1, 0], [1.9, 2, 0], [0, 0.4, 0.9], [0, 0, 9]])
    result = compare(lambda images: torch.from_numpy(ours), Fixed(theirs),
                     [(torch.zeros(4, 3, 4, 4), torch.tensor([0, 0, 1, 2]))])
    assert (result.images, result.differing, result.percent) == (4, 2, 50)
    assert result.largest_margin == pytest.approx(0.1)
    assert result.mean_logit_error == pytest.approx((0.1 + 0.1 + 0.1 + 0.5) / 12)
    assert result.margin_in_errors == pytest.approx(0.1 / (0.8 / 12), rel=1e-5)
    assert result.margin_in_own_errors == pytest.approx(0.1 / (0.2 / 3), rel=1e-5)
    assert "1.5 mean errors" in str(result)


def test_published_subnets_have_names():
    name, _, space, choice = find_published("SEQnet@vnni-A3")
    assert published_name(space, choice) == name
    assert published_name(find_published("SEQnet@pixel4-A0")[2], choice) is None


def test_benchmark_of_given_files(tmp_path):
    """The published CIFAR-10 files: all in the same turns, ResNet-20 takes longer than ResNet-8; cards hold the
    latencies."""
    folder = REPOSITORY / "data" / "models" / "cifar10"
    files = [shutil.copy(path, tmp_path) for net in ("resnet8", "resnet20")
             for path in sorted(folder.glob(f"{net}__*"))]
    models = [path for path in files if path.endswith(".onnx")]
    done = run_script("onnx_tools/benchmark.py", "--model_path", *models, "--num_runs", "60")
    assert done.returncode == 0, done.stderr
    small, large = (json.loads(Path(f"{path}.card.json").read_text())["latency"]["ms"] for path in models)
    assert 1.2 * small < large
    assert f"{large:.3f}" in done.stdout.splitlines()[2]
    done = run_script("onnx_tools/benchmark.py", "--model_path", *models, tmp_path / "absent.onnx")
    assert done.returncode == 2
    assert "absent.onnx" in done.stderr
    again = shutil.copytree(tmp_path, tmp_path / "again")
    done = run_script("onnx_tools/benchmark.py", "--model_path", models[0], again / Path(models[0]).name,
                      "--num_runs", "3")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [models[0], str(again / Path(models[0]).name)]
    card = Path(f"{models[1]}.card.json")
    card.write_text(card.read_text()[:100])
    done = run_script("onnx_tools/benchmark.py", "--model_path", *models)
    assert done.returncode == 2
    assert card.name in done.stderr
    assert not done.stdout, "nothing is timed whose latency cannot be kept"


@pytest.mark.parametrize(("options", "words"), [
    (("--threads", "2", "--processor_time"), "--processor_time adds up the time of all threads; allowed: --threads 1"),
    (("--model_path", "a.onnx", "--baselines", "static"), "--baselines with --model_path"),
    (("--model_path", "a.onnx", "--output", "b.csv"), "--output with --model_path"),
    (("--model_path", "a.onnx", "--network", "resnet8"), "--network with --model_path"),
    (("--model_path", "a.onnx", "b.onnx", "a.onnx"), "--model_path names 'a.onnx' twice"),
    (("--model_path", "a.onnx", "--uint8_input"), "--uint8_input with --model_path"),
    (("tflite", "--model_path", "a.tflite", "--model_dir", "b"), "--model_dir with --model_path"),
    (("tflite", "--model_path", "a.tflite", "--taskset_mask", "f0"), "--taskset_mask without --adb"),
    (("tflite", "--adb", "--skip_push", "--model_path", "a/m.tflite", "b/m.tflite"),
     "two files called 'm.tflite' with --skip_push")])
def test_benchmark_refuses_what_it_would_pass_over(options, words):
    tool, options = ("tflite", options[1:]) if options[0] == "tflite" else ("onnx", options)
    done = run_script(f"{tool}_tools/benchmark.py", *options)
    assert done.returncode == 2
    assert words in done.stderr


def test_benchmark_and_profile_scripts(tmp_path):
    (tmp_path / "in.csv").write_text(f"onnxw_tiny,000000-000000,{SMALLEST}\n")
    options = ("--input", tmp_path / "in.csv", "--model_dir", tmp_path)
    done = run_script("onnx_tools/benchmark.py", *options, "--output", tmp_path / "latency.csv")
    assert done.returncode == 2
    assert "export_onnx.py" in done.stderr.splitlines()[-1]
    done = run_script("onnx_tools/export_onnx.py", "--input", tmp_path / "in.csv", "--output_dir", tmp_path,
                      "--skip_weights")
    assert done.returncode == 0, done.stderr
    done = run_script("onnx_tools/benchmark.py", *options, "--output", tmp_path / "latency.csv", "--num_runs", "5",
                      "--baselines", "static", "--processor_time")
    assert done.returncode == 0, done.stderr
    assert "times as fast as static" in done.stdout
    with open(tmp_path / "latency.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row)[:6] == ["name", "fp32_ms", "int8_ms", "speedup", "fp32_spread_ms", "int8_spread_ms"]
    assert row["name"] == f"onnxw_tiny-000000-000000-{SMALLEST}"
    fp32, int8 = float(row["fp32_ms"]), float(row["int8_ms"])
    digits = 0.006 + fp32 / int8 * (0.0006 / fp32 + 0.0006 / int8)  # all three are rounded
    assert float(row["speedup"]) == pytest.approx(fp32 / int8, abs=digits)
    assert float(row["static_ms"]) > 0
    assert row["openvino_ms"] == ""
    assert float(row["fp32_peak_mb"]) > 0
    assert float(row["int8_peak_mb"]) > 0
    done = run_script("onnx_tools/op_profile.py", *options, "--output", tmp_path / "profile.csv", "--num_runs", "5")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "profile.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {"fp32", "int8", "static"}
    assert (tmp_path / "profile.png").is_file()
