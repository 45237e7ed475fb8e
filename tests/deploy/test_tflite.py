"""TFLite files under LiteRT against the torch network, and integer layers against integer arithmetic by hand."""
import csv
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from deploy_nets import assert_answers_kept, conv_node, integer_conv, lively, quantized
from processes import run_script
from stand_ins import write_adb

from modules.datasets.build import load_data
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.deploy.graph.graph import INPUT, OUTPUT, Graph, Node, Quantizer, WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.graph.ranges import observe_ranges
from modules.deploy.to_tflite.float_writer import Form
from modules.deploy.to_tflite.layers import integer_layer
from modules.deploy.to_tflite.writer import tflite_bytes, write_tflite
from modules.modeling.net_spec import NetSpec, resolve
from modules.modeling.network import QNetwork
from modules.modeling.ops.lsq_plus import set_quant_mode
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord
from modules.modeling.spec import BlockArgs, build_block, get_available_blocks
from modules.modeling.supernet import Supernet
from modules.runtime.engines import engines
from modules.runtime.litert import open_session
from modules.runtime.phone.benchmark_model import PhoneRun, parse_output
from modules.runtime.session import predict, time_interleaved
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.utils.checkpoint import save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (requirements.txt)")

FIXED = ("Conv", "FeatureMix", "Pool", "Logits")  # around the blocks of every network here


def network(kind: str, act: str, resolution: int) -> QNetwork:
    """The block with kernels 3, 5 and 7, strides 1 and 2, equal and unequal widths, between stem and classifier."""
    args = [BlockArgs("Conv", 3, 16, 3, None, 1, act), BlockArgs(kind, 16, 24, 3, 2, 2, act),
            BlockArgs(kind, 24, 24, 5, 1, 1, act), BlockArgs(kind, 24, 16, 7, 1.5, 1, act),
            BlockArgs(kind, 16, 16, 7, 3, 2, act), BlockArgs("FeatureMix", 16, 32, 1, None, 1, act),
            BlockArgs("Logits", 32, 10)]
    torch.manual_seed(0)
    return lively(QNetwork(NetSpec((("stage", tuple(map(build_block, args))),), resolution)))


def int8_graph(net: QNetwork, images: torch.Tensor) -> Graph:
    """The graph of `net` after its quantisers have started on `images`, ranges by minimum and maximum."""
    quantized(net, images, shift=1.3)
    graph = lower(net, [])
    graph.ranges = observe_ranges(net, [images])
    return graph


def every_block():
    for kind in get_available_blocks():
        acts = ("relu",) if "V1" in kind or "ResNet" in kind else ("relu6", "hswish", "swish")
        yield from (pytest.param(kind, act, id=f"{kind}-{act}") for act in acts if kind not in FIXED)


@pytest.mark.parametrize(("kind", "act"), list(every_block()))
def test_tflite_equals_the_network_for_every_block(kind, act):
    # 20 rows become 10, 5, 3: paddings of even and odd sizes
    images = torch.randn(6, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    net = network(kind, act, 20)
    with torch.no_grad():
        reference = net(images).numpy()
    graph = lower(net)
    for grouped in (True, False):
        result = predict(open_session(tflite_bytes(graph, form=Form(grouped=grouped))), images.numpy())
        np.testing.assert_allclose(result, reference, atol=2e-5 * np.abs(reference).max())

    graph = int8_graph(net, images)
    with torch.no_grad():
        fake = net(images).numpy()
    session = open_session(tflite_bytes(graph))
    # Codes of the engine without a trained quantiser cost little; a wrong scale anywhere costs everything.
    assert (predict(session, images.numpy()) - fake).std() < 0.2 * fake.std()
    delegation = session.delegation()
    assert delegation.partitions == 1
    assert delegation.delegated == delegation.operators
    low, high = graph.ranges[OUTPUT] = 1.3 * fake.min(), 1.3 * fake.max()
    coded = open_session(tflite_bytes(graph, form=Form(int8_output=True)))
    difference = np.abs(predict(coded, images.numpy()) - predict(session, images.numpy()))
    assert difference.max() < 0.5 * (high - low) / 255 + 0.05 * fake.std()
    assert {d["dtype"] for d in coded.interpreter.get_tensor_details()} == {np.int8, np.int32}


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("act", ["", "relu", "relu6"])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 2, 10), (3, 1, 9), (3, 2, 9), (3, 2, 10), (5, 2, 10),
                                                        (7, 1, 9), (7, 2, 10)])
def test_integer_convolutions_equal_arithmetic_by_hand(groups, act, kernel, stride, size):
    """XNNPACK multiplies the accumulator by one float32 and rounds half to even: equal to the last bit.

    TFLite's own kernels multiply by a fixed-point number and may be off by one code.
    """
    rng = np.random.default_rng(5)
    node = dense = conv_node("a", "input", 16, 16, kernel, rng, stride)
    if groups > 1:
        node = replace(dense, codes=dense.codes[:, :1], weight=dense.weight[:, :1], groups=groups)
        dense = replace(dense, codes=dense.codes[:, :1] * np.eye(16, dtype=np.int8)[:, :, None, None])
    out = Quantizer.from_range(0.0 if act else -3.0, 5.0 if act != "relu6" else 7.0)
    tensor = "a.act" if act else "a"
    graph = Graph([node, *([Node("act", ("a",), tensor, act)] if act else [])], (16, size, size),
                  {tensor: (0.0 if act else -3.0, 5.0 if act != "relu6" else 7.0)})
    image = rng.normal(0, 1, (2, 16, size, size)).astype(np.float32)
    content = tflite_bytes(graph)

    scale = np.float32(node.quantizer.scale) * node.scales / np.float32(out.scale)
    accumulator = integer_conv(node.quantizer.codes(image), dense)
    codes = np.round(accumulator.astype(np.float32) * scale[:, None, None]) + out.zero_point
    codes = np.clip(codes, 0, out.codes(np.float32(6)) if act == "relu6" else 255)
    np.testing.assert_array_equal(predict(open_session(content), image), out.values(codes))
    plain = predict(open_session(content, xnnpack=False), image)
    assert np.abs(plain - out.values(codes)).max() < 1.5 * out.scale


def test_channels_that_round_away_keep_their_bias():
    rng = np.random.default_rng(3)
    node = conv_node("a", "input", 8, 16, 1, rng)
    node.scales[:4] = 1e-20  # their biases do not fit into int32 at such a scale
    layer = integer_layer(node.codes, node.scales, node.bias, float(node.quantizer.scale), 8 / 255)
    np.testing.assert_array_equal(layer.weight[4:], node.codes[4:])
    step = layer.bias_scales.astype(np.float64)
    assert (np.abs(layer.bias * step - node.bias) <= 0.501 * step).all()
    content = tflite_bytes(Graph([node], (8, 5, 5), {"a": (-3.0, 5.0)}))
    result = predict(open_session(content), rng.normal(0, 1, (1, 8, 5, 5)).astype(np.float32))
    np.testing.assert_allclose(result[0, :4], np.broadcast_to(node.bias[:4, None, None], (4, 5, 5)), atol=4.1 / 255)


def test_channels_of_huge_scales_give_the_ends_of_the_range():
    """XNNPACK refuses a file with a requantisation factor of 256; networks with channels that never fire have 1e5."""
    rng = np.random.default_rng(4)
    node = conv_node("a", "input", 8, 16, 1, rng)
    out = Quantizer.from_range(-3.0, 5.0)
    node.scales[:8] = out.scale / node.quantizer.scale * np.float32([254, 255.4, 256, 257, 1e3, 1e5, 1e9, 300])
    node.bias[:8] = 0
    image = node.quantizer.values(rng.integers(0, 256, (2, 8, 5, 5)).astype(np.uint8))
    image[:, :, 2:] = 0  # every sum is 0 there
    content = tflite_bytes(Graph([node], (8, 5, 5), {"a": (-3.0, 5.0)}))
    sums = integer_conv(node.quantizer.codes(image), node)
    factor = np.float64(node.quantizer.scale) * node.scales.astype(np.float64) / out.scale
    codes = np.clip(np.round(sums * factor[:, None, None]) + out.zero_point, 0, 255)[:, :8]
    assert set(np.unique(codes)) == {0, out.zero_point, 255}
    np.testing.assert_array_equal(predict(open_session(content), image)[:, :8], out.values(codes))


@pytest.mark.parametrize("xnnpack", [True, False])
def test_the_classifier_multiplies_the_trained_codes(xnnpack):
    """Its input reaches the ends of the trained range in no image."""
    rng = np.random.default_rng(6)
    conv = conv_node("a", INPUT, 8, 24, 1, rng)
    node = WeightNode("linear", ("a",), OUTPUT, bias=rng.normal(0, 1, 10).astype(np.float32),
                      codes=rng.integers(-127, 128, (10, 24)).astype(np.int8),
                      scales=rng.uniform(1e-3, 3e-3, 10).astype(np.float32), quantizer=Quantizer(np.float32(0.11), 97))
    images = rng.normal(0, 0.3, (5, 8, 1, 1)).astype(np.float32)
    x = predict(open_session(tflite_bytes(Graph([conv], (8, 1, 1), quantizers={"a": node.quantizer})), xnnpack=xnnpack),
                images).reshape(5, 24)
    assert x.min() > node.quantizer.values(np.uint8(20))
    assert x.max() < node.quantizer.values(np.uint8(230))
    result = predict(open_session(tflite_bytes(Graph([conv, node], (8, 1, 1), quantizers={"a": node.quantizer})),
                                  xnnpack=xnnpack), images)
    products = (node.quantizer.codes(x).astype(np.int64) - 97) @ node.codes.T.astype(np.int64)
    scale = np.float64(node.quantizer.scale) * node.scales
    expected = (products + np.round(node.bias / scale)) * scale
    np.testing.assert_allclose(result, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["ResNetSE", "MobileNetV3K3Res"])
def test_no_trained_number_is_lost(kind):
    net = network(kind, "swish", 20)
    images = torch.randn(4, 3, 20, 20)
    quantized(net, images, shift=1.3)
    with torch.no_grad():  # the quantisers of conv1 and downsample started alike
        for _, block in net.named_blocks():
            for layer in (m for n, m in block.named_modules() if n.endswith("downsample.conv")):
                layer.activation_scale *= 1.37
    graph = lower(net, [])
    graph.ranges = observe_ranges(net, [images])
    session = open_session(tflite_bytes(graph, form=Form(grouped=False, int8_output=True)), xnnpack=False)
    details = {d["index"]: d for d in session.interpreter.get_tensor_details()}
    operators = {details[op["inputs"][1]]["name"]: op for op in session.interpreter._get_ops_details()
                 if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")}
    nodes = [node for node in graph.nodes if isinstance(node, WeightNode)]
    assert len(operators) == len(nodes)
    assert len({(node.inputs, node.quantizer) for node in nodes}) > len({node.inputs for node in nodes})
    for node in nodes:
        x, weight = (details[i] for i in operators[f"{node.output}.weight"]["inputs"][:2])
        assert x["quantization"][1] == node.quantizer.zero_point - 128
        product = x["quantization"][0] * weight["quantization_parameters"]["scales"].astype(np.float64)
        codes = session.interpreter.get_tensor(weight["index"])
        if node.op == "conv":
            codes = codes.transpose((3, 0, 1, 2) if node.groups > 1 else (0, 3, 1, 2))
        np.testing.assert_array_equal(codes, node.codes)
        alive = node.codes.reshape(len(node.codes), -1).any(1)
        np.testing.assert_allclose(np.broadcast_to(product, alive.shape)[alive],
                                   (node.quantizer.scale * node.scales.astype(np.float64))[alive], rtol=3e-7)


def test_tensors_that_own_their_quantiser_are_written_once():
    net, images = network("MobileNetV3Res", "swish", 20), torch.randn(4, 3, 20, 20)
    graph = int8_graph(net, images)
    graph.quantizers = {name: Quantizer.from_range(*ends) for name, ends in graph.ranges.items()}
    graph.quantizers[INPUT] = Quantizer.from_range(-4.0, 4.0)
    for node in graph.nodes:
        if isinstance(node, WeightNode):
            node.quantizer = graph.quantizers[node.inputs[0]]
    # A gate has the codes of 0 ... 1 whatever is said.
    session = open_session(tflite_bytes(graph, form=Form(int8_output=True)), xnnpack=False)
    kinds = [op["op_name"] for op in session.interpreter._get_ops_details()]
    assert "QUANTIZE" not in kinds
    assert kinds.count("ADD") == sum(node.op == "add" for node in graph.nodes)
    found = {d["name"]: d["quantization"] for d in session.interpreter.get_tensor_details()}
    for node in graph.nodes:
        if node.output in found and node.kind != "hard_sigmoid" and node.op != "mul":
            wanted = graph.quantizers[node.output]
            assert found[node.output] == (pytest.approx(float(wanted.scale), rel=1e-6), wanted.zero_point - 128)
    with torch.no_grad():
        fake = net(images).numpy()
    assert (predict(session, images.numpy()) - fake).std() < 0.25 * fake.std()


@pytest.mark.parametrize("kind", ["swish", "hswish"])
@pytest.mark.parametrize("before", [None, Quantizer(np.float32(0.01), 100), Quantizer(np.float32(0.04), 60)])
def test_activations_in_integers(kind, before):
    rng = np.random.default_rng(7)
    conv = conv_node("a", "input", 4, 8, 1, rng)
    conv.bias = np.linspace(-4, 4, 8).astype(np.float32)
    graph = Graph([conv, Node("act", ("a",), "b", kind)], (4, 30, 30), {"a": (-12.0, 9.0), "b": (-0.4, 6.0)},
                  {} if before is None else {"a": before})
    image = rng.normal(0, 1, (1, 4, 30, 30)).astype(np.float32)
    x = predict(open_session(tflite_bytes(replace(graph, nodes=[conv], ranges={"a": (-12.0, 9.0)}))), image)
    if before is not None:
        x = before.values(before.codes(x))
    expected = x / (1 + np.exp(-x)) if kind == "swish" else x * np.clip(x / 6 + 0.5, 0, 1)
    result = predict(open_session(tflite_bytes(graph)), image)
    # half a code of the result, of the input (slope up to 1.5) and of the gate
    tolerance = 0.51 * 6.4 / 255 + 1.5 * 0.51 * 21 / 255 * 2 + 6 * 0.51 / 255
    assert np.abs(result - np.clip(expected, -0.4, 6)).max() < tolerance


@pytest.mark.parametrize("placement", ["lsq", "engine"])
def test_a_trained_network_keeps_its_answers(placement):
    assert_answers_kept(placement, lambda graph: open_session(tflite_bytes(graph)))


def published_subnets():
    with open(REPOSITORY / "data" / "search_results.yaml") as file:
        found = yaml.safe_load(file)
    for name, entry in found["subnets"].items():
        slow = () if name.endswith("A0") else (pytest.mark.slow,)
        yield pytest.param(found["supernets"][entry["supernet"]], entry["subnet"], id=name, marks=slow)


@pytest.mark.parametrize(("encoding", "choice"), list(published_subnets()))
def test_published_subnets(encoding, choice):
    spec = resolve(SupernetConfig.from_str(encoding), SubnetChoiceConfig.from_str(choice))
    net = lively(QNetwork(spec))
    images = torch.randn(1, 3, spec.resolution, spec.resolution, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = net(images).numpy()
    result = predict(open_session(tflite_bytes(lower(net))), images.numpy())
    np.testing.assert_allclose(result, reference, atol=1e-4 * np.abs(reference).max())

    session = open_session(tflite_bytes(int8_graph(net, images)))
    with torch.no_grad():
        fake = net(images).numpy()
    assert (predict(session, images.numpy()) - fake).std() < 0.3 * fake.std()
    delegation = session.delegation()
    assert (delegation.delegated, delegation.partitions) == (delegation.operators, 1)


def test_files_sessions_and_times(tmp_path):
    net = network("ResNet", "relu", 20)
    write_tflite(lower(net), tmp_path / "net.tflite", {"subnet": "d1", "classes": json.dumps(["ü"])})
    session = open_session(tmp_path / "net.tflite")
    assert session.metadata == {"subnet": "d1", "classes": json.dumps(["ü"])}
    assert session.get_inputs()[0].shape == (1, 3, 20, 20)
    times = time_interleaved({"a": session, "b": open_session(tflite_bytes(lower(net)))}, runs=7, warmup=1)
    assert {len(values) for values in times.values()} == {7}
    assert min(values.min() for values in times.values()) > 0
    if sys.platform == "linux":
        assert 0 < engines["litert"].peak_memory_mb(tmp_path / "net.tflite") < 500
    with pytest.raises(UserError, match="does not exist"):
        open_session(tmp_path / "none.tflite")
    (tmp_path / "bad.tflite").write_bytes(b"not a model")
    with pytest.raises(UserError, match="cannot be opened by LiteRT"):
        open_session(tmp_path / "bad.tflite")


def test_delegation_counts_what_xnnpack_leaves():
    # Codes of a sum a thousand times coarser than those of an addend are not for XNNPACK.
    node = conv_node("a", "input", 8, 8, 1, np.random.default_rng(0))
    graph = Graph([node, Node("add", ("input", "a"), "b")], (8, 5, 5), {"input": (-2.0, 2.0), "b": (-5.0, 5.0)},
                  {"a": Quantizer(np.float32(1e-6), 0)})
    delegation = open_session(tflite_bytes(graph)).delegation()
    assert delegation.delegated == delegation.operators - 1
    graph.quantizers = {}
    graph.ranges["a"] = (0.0, 1e-6)
    delegation = open_session(tflite_bytes(graph)).delegation()
    assert delegation.delegated == delegation.operators


OUTPUT_OF_BENCHMARK_MODEL = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Loaded model net.tflite
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=37 first=15002 curr=13311 min=13199 max=15002 avg=13475.6 std=301

INFO: Running benchmark for at least 10 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=75 first=13322 curr=13296 min=13140 max=13940 avg=13331.8 std=128

INFO: Inference timings in us: Init: 2531, First inference: 15002, Warmup (avg): 13475.6, Inference (avg): 13331.8
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual
INFO: Memory footprint delta from the start of the tool (MB): init=3.25781 overall=9.51562
"""


def test_output_of_the_benchmark_program():
    times = parse_output(OUTPUT_OF_BENCHMARK_MODEL)
    assert (times.mean_ms, times.std_ms, times.runs, times.memory_mb) == (13.3318, 0.128, 75, 9.51562 * 1.048576)
    assert parse_output("count=5 first=1 curr=1 min=1 max=1 avg=1.25e+06 std=2").mean_ms == 1250
    with pytest.raises(UserError, match="no such option"):
        parse_output("ERROR\nno such option")


SMALLEST = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#24#40#56#96#128_e0#0.5#0#0#0#0#0#0_r32"


def checkpoints(folder: Path) -> None:
    """Untrained checkpoints of a supernet, fp32 and int8 with started quantisers."""
    space = "onnxw_tiny-000000-000000"
    model = Supernet.build_from_str(space, 10, (32,))
    record = ModelRecord(space, (32,), tuple("0123456789"), "digits", training={"augment": "default"})
    target = folder / f"{space}-align0"
    save_checkpoint(target / "checkpoint.pth", {"state_dict": model.state_dict(), "config": record.to_dict()})
    set_quant_mode(model)
    model.set_active_subnet(SMALLEST)
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32))
    record = replace(record, quant=QuantMode())
    save_checkpoint(target / "lsq.pth", {"state_dict": model.state_dict(), "config": record.to_dict()})


def test_export_evaluate_predict(tmp_path):
    checkpoints(tmp_path)
    (tmp_path / "in.csv").write_text(f"# one subnet\nonnxw_tiny,000000-000000,{SMALLEST}\n")
    done = run_script("tflite_tools/export_tflite.py", "--input", tmp_path / "in.csv", "--output_dir", tmp_path,
                      "--resume", tmp_path, "--post_bn_calibration_batch_num", "2", "--debug")
    assert done.returncode == 0, done.stderr
    data, *lines = done.stdout.splitlines()
    assert data.startswith("data set digits: 10 classes")
    assert len(lines) == 2
    assert ": 0 of 96 images differ" in lines[0]
    path = lines[1].split(": ")[0]
    assert re.fullmatch(r"onnxw_tiny_000000-000000_[0-9a-f]{6}_quant_int8\.tflite", Path(path).name)
    session = open_session(path)
    assert json.loads(session.metadata["classes"]) == list("0123456789")
    assert session.metadata["subnet"] == SMALLEST

    done = run_script("tflite_tools/eval_tflite.py", "--model_path", path)
    assert done.returncode == 0, done.stderr
    batches = list(eval_batches(*digits_part(), batch_size=71))
    logits = np.concatenate([predict(session, images.numpy()) for images, _ in batches])
    truth = np.concatenate([labels.numpy() for _, labels in batches])
    assert f"acc1 {100 * (logits.argmax(1) == truth).mean():.2f}% [" in done.stdout
    assert "of 355 images" in done.stdout

    source, indices, _ = digits_part()
    source.image(indices[0]).save(tmp_path / "digit.png")
    done = run_script("tflite_tools/predict.py", "--model_path", path, tmp_path / "digit.png", "--top", "3")
    assert done.returncode == 0, done.stderr
    odds = np.exp(logits[0] - logits[0].max())
    best = np.argsort(-odds, kind="stable")[:3]
    assert re.findall(r"([\d.]+)%  (\d)", done.stdout) == [(f"{100 * odds[i] / odds.sum():.2f}", str(i)) for i in best]
    (tmp_path / "text.png").write_text("no image")
    done = run_script("tflite_tools/predict.py", "--model_path", path, tmp_path / "text.png")
    assert done.returncode == 2
    assert "text.png" in done.stderr.splitlines()[-1]


def digits_part():
    data = load_data("digits")
    return data.test, data.test_indices, eval_transform(32, data.info)


# benchmark_model of a phone that takes 4 ms for a file of int8, and 10 ms for another.
PROGRAM = """#!/bin/sh
for argument in "$@"; do case "$argument" in --graph=*) model="${argument#--graph=}" ;; esac; done
[ -f "$model" ] || { echo "no model $model" >&2; exit 1; }
case "$model" in *int8*) mean=4000 ;; *) mean=10000 ;; esac
echo "count=9 first=1 curr=1 min=1 max=1 avg=99 std=9"
echo "count=10 first=1 curr=1 min=1 max=1 avg=$mean std=250"
echo "INFO: Memory footprint delta from the start of the tool (MB): init=3 overall=9.5"
"""


def test_benchmark_here_and_on_a_phone(tmp_path):
    (tmp_path / "in.csv").write_text(f"onnxw_tiny,000000-000000,{SMALLEST}\n")
    few = ("tflite_tools/benchmark.py", "--num_runs", "3", "--warmup_runs", "1")
    options = (*few, "--input", tmp_path / "in.csv", "--model_dir", tmp_path, "--output", tmp_path / "latency.csv")
    done = run_script(*options)  # as published: without an export before
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written with random weights") == 2
    (tmp_path / "latency.csv").unlink()
    done = run_script(*options)
    assert done.returncode == 0, done.stderr
    assert "random weights" not in done.stdout
    with open(tmp_path / "latency.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row)[:4] == ["name", "fp32_ms", "int8_ms", "speedup"]
    assert row["name"] == f"onnxw_tiny-000000-000000-{SMALLEST}"
    fp32, int8 = float(row["fp32_ms"]), float(row["int8_ms"])
    digits = 0.006 + fp32 / int8 * (0.0006 / fp32 + 0.0006 / int8)  # all three are rounded
    assert float(row["speedup"]) == pytest.approx(fp32 / int8, abs=digits)
    assert re.fullmatch(r"XNNPACK runs (\d+) of \1 operators in 1 partition\(s\)", row["engine"])

    phone = tmp_path / "a phone"
    calls = write_adb(tmp_path / "bin", phone, PROGRAM, "bench")
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    by_adb = ("--adb", "--serial_number", "X1", "--benchmark_binary_dir", phone, "--bin_name", "bench",
              "--use_xnnpack")
    on_phone = (*options, *by_adb)
    (tmp_path / "latency.csv").unlink()
    done = run_script(*on_phone, "--skip_push", env=environment)
    assert done.returncode == 2
    assert "no model" in done.stderr
    done = run_script(*on_phone, env=environment)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "latency.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["fp32_ms"], row["int8_ms"], row["speedup"]) == ("10.000", "4.000", "2.50")
    assert (row["int8_spread_ms"], row["int8_peak_mb"]) == ("0.250", "10.0")  # MB of 10^6 bytes
    assert (row["cpu"], row["runtime"]) == ("Pixel 4, cores 70", "bench")
    calls = calls.read_text().splitlines()
    assert all(call.startswith("-s X1 ") for call in calls)
    assert "taskset 70 " in calls[-1]
    assert "--num_threads=1 --num_runs=3 --warmup_runs=1 --use_xnnpack=true" in calls[-1]

    int8, fp32 = sorted(tmp_path.glob("*.tflite"), key=lambda path: "int8" not in path.name)
    done = run_script(*few, *by_adb, "--model_path", fp32, int8, env=environment)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1:] for line in done.stdout.splitlines()[1:]] == [["10.000", "0.250", "1.00"],
                                                                           ["4.000", "0.250", "0.40"]]
    done = run_script(*few, "--model_path", int8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1.00"


def test_a_phone_without_adb_is_refused(tmp_path):
    done = run_script("tflite_tools/benchmark.py", "--adb", env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "adb is not installed" in done.stderr.splitlines()[-1]


def test_the_command_on_the_phone():
    command = PhoneRun().command("/data/local/tmp/net.tflite")
    assert command == ["taskset", "70", "/data/local/tmp/benchmark_model_plus_flex_r27",
                       "--graph=/data/local/tmp/net.tflite", "--num_threads=1", "--num_runs=10", "--warmup_runs=10",
                       "--use_xnnpack=false"]
    assert PhoneRun(taskset_mask="").command("m")[0] == "/data/local/tmp/benchmark_model_plus_flex_r27"


def test_without_litert_one_line_says_so(tmp_path):
    code = ("import runpy, sys; sys.modules['ai_edge_litert'] = None; sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    for command in (("tflite_tools/export_tflite.py", "--skip_weights", "--output_dir", tmp_path),
                    ("tflite_tools/eval_tflite.py", "--model_path", tmp_path / "net.tflite"),
                    ("tflite_tools/benchmark.py", "--network", "resnet8", "--model_dir", tmp_path)):
        done = run_script("-c", code, *command)
        assert done.returncode == 2
        assert "ai-edge-litert is not installed" in done.stderr.splitlines()[-1]
