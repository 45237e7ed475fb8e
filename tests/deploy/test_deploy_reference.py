"""The NumPy executor against onnxruntime step by step, and against arithmetic by other means."""
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from deploy_nets import every_block_type, quantized, subnet

from modules.deploy.check.sqnr import measure_noise, plot_noise, ratio_db, table
from modules.deploy.graph.graph import Graph, Node, Quantizer, WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.graph.observe import observe
from modules.deploy.graph.padding import pad_channels
from modules.deploy.graph.plan import Operand, make_plan
from modules.deploy.graph.reference import convolve, execute, value
from modules.deploy.to_onnx.writer import onnx_model
from modules.runtime.ort import open_session


def engine_results(plan, images: np.ndarray) -> dict[str, np.ndarray]:
    """The result of onnxruntime in every step of `plan`, by the step's name."""
    model = onnx_model(plan)
    types = {step.output: onnx.TensorProto.UINT8 if step.quantizer else onnx.TensorProto.FLOAT for step in plan.steps}
    shown = [name for name in types if name not in {output.name for output in model.graph.output}]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, types[name], None) for name in shown)
    return dict(zip([output.name for output in model.graph.output],
                    open_session(model.SerializeToString()).run(None, {"input": images}), strict=True))


def trained(encoding: str, seed: int = 1):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return quantized(subnet(encoding), images, shift=1.3), images


@pytest.mark.parametrize("encoding", [*every_block_type(), "onnxw_tiny-053412-000000", "mobilew-122222-155400"])
def test_every_step_equals_onnxruntime_within_one_code(encoding):
    net, images = trained(encoding)
    plan = make_plan(pad_channels(lower(net, [images])))
    engine = engine_results(plan, images.numpy())
    ours = execute(plan, images.numpy(), known=engine)
    off = total = 0
    for step in plan.steps:
        difference = np.abs(ours[step.output].astype(np.float64) - engine[step.output])
        if step.quantizer is None:
            assert difference.max() <= 1e-5 * max(np.abs(engine[step.output]).max(), 1)
        else:
            assert difference.max() <= 1, step.output
            off, total = off + (difference > 0).sum(), total + difference.size
    assert off <= 1e-3 * total  # only where a float32 product lies next to the middle between two codes
    alone = execute(plan, images.numpy())["output"]
    # Those few go on through the layers after them.
    assert np.abs(alone - engine["output"]).mean() <= 0.05 * engine["output"].std()


def test_a_float_plan_equals_the_network():
    net, images = subnet("onnxw_tiny-053412-000000"), torch.randn(2, 3, 32, 32)
    plan = make_plan(lower(net))
    results, seen = execute(plan, images.numpy()), {}
    logits = observe(net, images, lambda name, tensor: seen.update({name: tensor.numpy().copy()}))
    assert len(seen) > 20
    for name in seen:
        np.testing.assert_allclose(results[name], seen[name], atol=1e-4 * max(1, np.abs(seen[name]).max()))
    np.testing.assert_allclose(results["output"], logits.numpy(), atol=1e-4 * np.abs(logits.numpy()).max())


@pytest.mark.parametrize(("groups", "kernel", "stride", "size"), [(1, 3, 2, 9), (6, 5, 2, 8), (6, 3, 1, 7),
                                                                  (1, 1, 2, 8), (1, 7, 1, 5)])
def test_convolution_is_that_of_torch(groups, kernel, stride, size):
    rng = np.random.default_rng(kernel)
    x, weight = rng.normal(size=(2, 6, size, size)), rng.normal(size=(6, 6 // groups, kernel, kernel))
    node = WeightNode("conv", ("input",), "a", stride=stride, groups=groups)
    expected = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), None, stride, kernel // 2, 1, groups)
    np.testing.assert_allclose(convolve(x, weight, node), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("encoding", ["onnxw_tiny-053412-000000", "mobilew-122222-155400", "mobile_v1_res-000000"])
def test_padded_channels_change_nothing(encoding):
    net, images = trained(encoding)
    graph = lower(net, [images])
    padded = pad_channels(graph)
    widened = 0
    for node, before in zip(padded.nodes, graph.nodes, strict=True):
        if isinstance(node, WeightNode):
            widened += node.weight.shape != before.weight.shape
            assert node.op == "linear" or (len(node.bias) % 16 == 0 if node.groups > 1 else len(node.bias) >= 16)
            assert node.weight.shape == node.codes.shape
    assert widened
    assert padded.nodes[0].weight.shape[1] == 4
    a, b = (execute(make_plan(g), images.numpy()) for g in (graph, padded))
    np.testing.assert_array_equal(a["output"], b["output"])


def one_layer(kind: str) -> tuple[Graph, np.ndarray]:
    """A 1 x 1 convolution on codes 0 ... 255 whose output spans -6 ... 6, with an activation after it."""
    layer = WeightNode("conv", ("input",), "a", weight=np.float32([[[[0.05]]]]), bias=np.float32([-6.3]),
                       codes=np.int8([[[[100]]]]), scales=np.float32([5e-4]), quantizer=Quantizer(np.float32(1), 0))
    reader = replace(layer, inputs=("a.act",), output="b", quantizer=Quantizer(np.float32(0.03), 13))
    graph = Graph([layer, Node("act", ("a",), "a.act", kind), reader], (1, 1, 256), {"a": (-6.3, 6.4), "b": (-9, 9)})
    return graph, np.arange(256, dtype=np.float32).reshape(1, 1, 1, 256)


@pytest.mark.parametrize(("kind", "function", "steps"), [
    ("hswish", F.hardswish, 1.0), ("swish", F.silu, 2.0), ("relu", F.relu, 0.51), ("relu6", F.relu6, 0.51)])
def test_activations_on_codes_are_those_of_the_float_values(kind, function, steps):
    graph, codes = one_layer(kind)
    plan = make_plan(graph)
    assert all(step.quantizer for step in plan.steps[:-1])
    result = value(plan.values["a.act"], execute(plan, codes))
    expected = function(torch.from_numpy(codes * np.float32(0.05) - np.float32(6.3))).numpy()
    scale = plan.values["a.act"].quantizer.scale
    # Half a step of the input's codes (at a slope of 1.1 at most), of the sigmoid's and of the output's.
    assert np.abs(result - expected).max() <= steps * scale + 1e-6


def test_the_gate_is_a_saturated_convolution():
    graph, codes = one_layer("hard_sigmoid")
    graph.nodes[2:] = [Node("pool", ("a.act",), "pool")]
    graph.ranges["pool"] = (0, 1)
    plan = make_plan(graph)
    assert [step.op for step in plan.steps] == ["quantize", "conv", "pool"]
    gate = value(plan.values["a.act"], execute(plan, codes))
    expected = F.hardsigmoid(torch.from_numpy(codes * np.float32(0.05) - np.float32(6.3))).numpy()
    assert np.abs(gate - expected).max() <= 0.5 / 255 + 1e-6
    assert gate.min() == 0
    assert gate.max() == 1


@pytest.mark.parametrize(("encoding", "tensor"), [("onnxw_tiny-333333", "out"), ("onnxw_tiny-111111", "add")])
def test_every_reader_of_a_sum_gets_its_own_codes_of_the_exact_sum(encoding, tensor):
    net, images = trained(encoding)
    with torch.no_grad():
        net.stages["stage3"][0].downsample.conv.activation_scale *= 1.1
    graph = lower(net, [images])
    plan = make_plan(graph)
    results = execute(plan, images.numpy())
    name = f"stage2.0.{tensor}"  # read by stage3.0's first convolution and by its downsample
    sums = [step for step in plan.steps if step.op == "add" and step.output.startswith(f"{name}.code")]
    assert {step.quantizer for step in sums} == {node.quantizer for node in graph.consumers[name]}
    assert len(sums) == 2
    total = sum(value(operand, results) for operand in sums[0].inputs)
    for step in sums:
        read = next(s for s in plan.steps if s.op == "conv" and s.inputs[0].name.startswith(step.output[:-10])
                    and s.inputs[0].quantizer == step.quantizer)
        wanted = step.quantizer.codes(np.maximum(total, 0) if tensor == "out" else total)
        np.testing.assert_array_equal(results[read.inputs[0].name], wanted)


def test_noise_is_found_where_it_is_put_in(tmp_path):
    net, images = trained("onnxw_tiny-053412-000000")
    graph = lower(net, [images])
    before = {row.tensor: row for row in measure_noise(net, graph, images)}
    spoilt = next(i for i, node in enumerate(graph.nodes) if node.output == "stage3.0.conv2")
    graph.nodes[spoilt] = replace(graph.nodes[spoilt], bias=graph.nodes[spoilt].bias + np.float32(0.5))
    rows = measure_noise(net, graph, images)
    after = {row.tensor: row for row in rows}
    assert after["stage3.0.conv1.act"] == before["stage3.0.conv1.act"]
    assert after["stage3.0.conv2.act"].engine_db < before["stage3.0.conv2.act"].engine_db - 5
    assert after["stage3.0.conv2.act"].training_db == before["stage3.0.conv2.act"].training_db
    # The first codes are those of training: only sums next to the middle between two may differ.
    assert before["stage0.0.conv1.act"].engine_db > 45
    assert list(table(rows)[0]) == ["tensor", "scale", "deviation", "engine_db", "training_db"]
    plot_noise(rows, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").read_bytes()[1:4] == b"PNG"


def test_ratio_in_decibels():
    signal = np.array([3.0, 1.0, -1.0, -3.0])  # variance 5
    assert ratio_db(signal, signal + np.array([0.5, -0.5, 0.5, -0.5])) == pytest.approx(10 * np.log10(5 / 0.25))
    assert ratio_db(signal, signal) == 99
    assert value(Operand("x"), {"x": signal}) is signal
