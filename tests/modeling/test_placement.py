"""Placement "engine": every tensor an engine materialises owns its quantiser, and the engine then computes the trained
network."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from deploy_nets import every_block_type, lively, quantized, subnet

from modules.block_kd.space_search.spaces import Spaces
from modules.deploy.check.sqnr import measure_noise
from modules.deploy.graph.builder import SyntheticWeights, build_graph
from modules.deploy.graph.graph import INPUT, Quantizer, WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.graph.plan import GATE_CODES, make_plan
from modules.deploy.graph.reference import execute
from modules.deploy.to_onnx.writer import onnx_bytes
from modules.deploy.to_tflite.writer import tflite_bytes
from modules.modeling.blocks import ConvNorm
from modules.modeling.net_spec import largest_stage, resolve
from modules.modeling.ops.lsq_plus import QBase, set_quant_mode
from modules.modeling.placement import GATE_STEPS, materialized
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord, load_supernet
from modules.modeling.spec import BlockArgs, build_block
from modules.modeling.supernet import Supernet
from modules.modeling.tensors import TensorQuant
from modules.runtime import litert
from modules.runtime.ort import open_session, optimized_ops
from modules.runtime.session import predict
from modules.search_space import Candidate, get_superspace, register_superspace
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import _superspaces
from modules.training.config import TrainConfig
from modules.training.ema import WeightAverage
from modules.utils.checkpoint import load_weights, save_checkpoint
from modules.utils.errors import UserError

SPACE = "onnxw_tiny-053412-000000"  # one of each of its block types


def images(seed: int = 1, size: int = 32) -> torch.Tensor:
    return torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(seed))


def started(encoding: str, pick=min, size: int = 32):
    net = subnet(encoding, size, pick)
    QuantMode(placement="engine").apply(net)
    with torch.no_grad():
        net(images(size=size))
    return net


def test_materialized_tensors_of_a_bottleneck_and_of_an_inverted_one_with_gates():
    assert materialized(build_block(BlockArgs("ResNet", 16, 24, 3, 0.5, 2, "relu"))) == dict.fromkeys(
        ["conv1.act", "conv2.act", "conv3", "downsample", "out"], "")
    block = build_block(BlockArgs("MobileNetV3K3Res", 16, 16, 7, 1.0, 1, "swish"))
    assert materialized(block) == {
        "depth_conv.0": "", "depth_conv.1": "", "depth_conv": "swish", "depth_conv.act.gate": "sigmoid",
        "depth_conv.act": "", "se.pool": "", "se.fc.reduce.act": "", "se.fc.expand.act": "gate", "se.mul": "",
        "point_conv2": "", "add": ""}
    unused = set(materialized(block, unused=True)) - set(materialized(block))
    assert unused == {"point_conv1", "point_conv1.act", "point_conv1.act.gate", "downsample"}
    assert materialized(build_block(BlockArgs("MobileNetV3", 16, 16, 3, 2.0, 1, "hswish")))["depth_conv"] == "hswish"


@pytest.mark.parametrize("encoding", list(every_block_type()))
def test_whatever_a_layer_reads_is_materialized(encoding):
    for prefix, block in resolve_smallest(encoding):
        graph = build_graph([(prefix, block)], SyntheticWeights(), (block.args.cin, 8, 8))
        owned = {f"{prefix}.{name}" for name in materialized(block)}
        read = {name for node in graph.nodes if isinstance(node, WeightNode) for name in node.inputs} - {INPUT}
        folded = {node.inputs[0] for node in graph.nodes if node.op == "act" and node.kind in (
            "relu", "relu6", "hard_sigmoid")}
        assert read <= owned
        assert {node.output for node in graph.nodes if node.op != "linear"} - folded == {
            name for name in owned if not name.endswith(".gate")}


def resolve_smallest(encoding):
    from modules.search_space.subnet_space import SubnetSpace

    config = SupernetConfig.from_str(encoding)
    return resolve(config, SubnetSpace(config, (32,)).extreme(min), 10).blocks


GATED = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,2,8,1)SuperResIDWE2K3(16,16,2,16,1):se"  # sigmoids after a norm


@pytest.mark.parametrize("encoding", [*every_block_type(), SPACE, GATED, "efficientnet_b0_cifar_x0.25"])
def test_the_engine_computes_what_was_trained(encoding, tmp_path):
    # Their first stride is 1. The fewer values, the fewer fall on the middle between two codes.
    size = {"cifarw": 16, "cifarw_tiny": 16, "cifarw_short": 8}.get(encoding.split("-")[0], 32)
    net, pictures = started(encoding, size=size), images(2, size)
    graph = lower(net, [images(size=size)])
    for node in graph.nodes:
        if isinstance(node, WeightNode):
            assert node.quantizer == graph.quantizers[node.inputs[0]]
    plan = make_plan(graph)
    assert [step.inputs[0].name for step in plan.steps if step.op == "quantize"] == [INPUT]
    assert [step.op for step in plan.steps if step.quantizer is None] == ["linear"]
    # Only values within float rounding of the middle between two codes may differ, and values that follow from them.
    noise = {row.tensor: row.engine_db for row in measure_noise(net, graph, pictures)}
    assert noise["first_conv.0.conv.act"] > 60
    (tmp_path / "net.onnx").write_bytes(onnx_bytes(graph))
    assert optimized_ops(tmp_path / "net.onnx", tmp_path)["QuantizeLinear"] == 1
    with torch.no_grad():
        expected = net(pictures).numpy()
    reference = execute(plan, pictures.numpy())["output"]
    # Which images have such values depends on the processor; a wrong engine would be right for none.
    assert (np.abs(reference - expected).max(1) < 1e-4 * expected.std()).sum() >= 2
    for result in (predict(open_session(tmp_path / "net.onnx"), pictures.numpy()),
                   predict(litert.open_session(tflite_bytes(graph)), pictures.numpy())):
        assert np.abs(result - expected).mean() < 0.05 * expected.std()


def test_the_engine_is_nearer_to_the_network_than_under_the_other_placement():
    errors = []
    for net in (started(SPACE), quantized(subnet(SPACE), images())):
        with torch.no_grad():
            expected = net(images(2)).numpy()
        result = predict(open_session(onnx_bytes(lower(net, [images()]))), images(2).numpy())
        errors.append(np.abs(result - expected).mean() / expected.std())
    assert errors[0] < errors[1]


def test_evaluated_layers_give_whole_steps_of_input_times_weight():
    """As an integer engine does, whose bias is a whole number of them."""
    net, results = started(SPACE), {}
    for name, module in net.named_modules():
        if isinstance(module, ConvNorm) and not hasattr(module, "dwconv"):
            module.register_forward_hook(lambda m, x, y, name=name: results.update({name: (m, x[0], y)}))
    with torch.no_grad():
        net(images(2))
    assert len(results) > 15
    for name, (module, x, y) in results.items():
        norm = module.norm
        factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()
        unit = (x.code_step * module.conv.weight_scale * factor).detach().double().view(-1, 1, 1)
        steps = y.double() / unit
        alive = (unit > 1e-12).flatten()
        off = (steps - steps.round()).abs()[:, alive]
        assert off.max() < 0.2, name  # float32 holds a hundred thousand steps that well; chance gives 0.5
    set_quant_mode(net, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(images(2)), subnet(SPACE)(images(2)))


def test_codes_of_an_hswish_begin_at_minus_three():
    quant = TensorQuant("x", "hswish").train()
    quant.nbits_a = 8
    x = torch.linspace(-7, 6.1, 500, requires_grad=True)
    y = quant(x[None])[0]
    scale, beta = quant.effective()
    assert beta.item() == -3
    assert (3 / scale.item()) == pytest.approx(round(3 / scale.item()), abs=1e-4)
    assert scale.item() == pytest.approx(9.1 / 255, rel=0.01)
    assert y.min().item() == pytest.approx(-3, abs=1e-6)
    assert y.max().item() == pytest.approx(6.1, abs=scale.item())
    y.sum().backward()
    assert (x.grad == (x > -3)).all()
    assert quant.activation_scale.grad is not None
    assert quant.activation_beta.grad is None
    assert quant.activation_beta.requires_grad is False


@pytest.mark.parametrize(("kind", "steps", "highest"), [("gate", 255, 1.0), ("sigmoid", 256, 255 / 256)])
def test_a_gate_has_fixed_codes(kind, steps, highest):
    quant = TensorQuant("x", kind)
    before = quant.state_dict()
    assert quant(torch.tensor([[0.3]])).item() == pytest.approx(0.3)  # off
    quant.nbits_a = 8
    x = torch.tensor([[0.0, 1.0, 0.3, 1.2]])
    expected = torch.tensor([[0.0, highest, round(0.3 * steps) / steps, highest]])
    torch.testing.assert_close(quant(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in quant.state_dict().items())
    assert Quantizer(np.float32(1 / 255), 0) == GATE_CODES


def test_a_hard_sigmoid_of_weights_near_zero_is_that_of_its_bias():
    """The shift of 3 has no int32 code at the scale of such weights."""
    net = subnet("onnxw_tiny-444444-000000")
    gates = [module for name, module in net.named_modules() if name.endswith("se.fc.expand")]
    assert gates
    for module in gates:
        module.weight.data *= 1e-13
        module.bias.data = torch.linspace(-2, 2, len(module.bias)) * (torch.arange(len(module.bias)) % 2)
    QuantMode(placement="engine").apply(net)
    with torch.no_grad():
        net(images())
    graph = lower(net, [images()])
    end = next(i for i, node in enumerate(graph.nodes) if node.kind == "hard_sigmoid")
    expected = (graph.nodes[end - 1].bias / 6 + 0.5).clip(0, 1)
    part = replace(graph, nodes=graph.nodes[: end + 1])
    for result in (predict(open_session(onnx_bytes(part)), images(2).numpy()),
                   predict(litert.open_session(tflite_bytes(part)), images(2).numpy())):
        np.testing.assert_allclose(result.squeeze(), np.tile(expected, (6, 1)), atol=0.51 / 255)


def test_keys_are_there_under_this_placement_only():
    plain, engine = Supernet.build_from_str(SPACE, 10), Supernet.build_from_str(SPACE, 10)
    QuantMode().apply(plain)
    QuantMode(placement="engine").apply(engine)
    assert not any("tensors" in key for key in plain.state_dict())
    new = set(engine.state_dict()) - set(plain.state_dict())
    assert new
    assert all(".tensors." in key and "weight_scale" not in key for key in new)
    assert "stages.first_conv.blocks.0.tensors.input.activation_scale" in new
    assert "stages.stage1.blocks.0.tensors.input.activation_scale" not in new
    assert "stages.stage1.blocks.1.tensors.downsample.activation_scale" in new
    QuantMode(placement="engine").apply(engine)  # a second time changes nothing
    assert set(engine.state_dict()) - set(plain.state_dict()) == new
    for module in engine.modules():
        if isinstance(module, TensorQuant):
            assert (module.nbits_w, module.nbits_a) == (32, 8)
        elif isinstance(module, QBase):
            assert (module.nbits_w, module.nbits_a) == (8, 32)


def test_switched_off_it_is_the_float_network():
    net, plain = started(SPACE), subnet(SPACE)
    set_quant_mode(net, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(images()), plain(images()))


def test_checkpoint_and_subnet_keep_the_quantisers(tmp_path):
    config, mode = SupernetConfig.from_str(SPACE), QuantMode(placement="engine")
    torch.manual_seed(0)
    model = Supernet(config, 10, (32,)).eval()
    save_checkpoint(tmp_path / "fp32.pth", {"state_dict": model.state_dict()})
    mode.apply(model)
    load_weights(model, {"state_dict": torch.load(tmp_path / "fp32.pth")["state_dict"]}, tmp_path / "fp32.pth")
    lively(model)
    with torch.no_grad():
        for choice in (model.subnets.extreme(max), model.subnets.extreme(min)):
            model.set_active_subnet(choice)
            model(images())
    # A quantiser starts at the first tensor it sees; layers that only other subnets have start later.
    record = ModelRecord(SPACE, (32,), tuple("abcdefghij"), quant=mode)
    save_checkpoint(tmp_path / "lsq.pth", {"state_dict": model.state_dict(), "config": record.to_dict()})
    loaded, found = load_supernet(tmp_path / "lsq.pth", config, quant_mode=True)
    assert found.quant == mode
    for choice in (loaded.subnets.extreme(max), loaded.subnets.extreme(min)):
        for net in (loaded, model):
            net.set_active_subnet(choice)
        with torch.no_grad():
            expected = model(images(3))
            torch.testing.assert_close(loaded(images(3)), expected, rtol=0, atol=0)
            static = loaded.get_active_subnet()
            torch.testing.assert_close(static(images(3)), expected, rtol=1e-5, atol=1e-5)
            assert lower(static, [images()]).quantizers
    load_supernet(tmp_path / "lsq.pth", config, quant_mode=False)  # its weights in float


def test_average_of_weights_takes_started_quantisers_as_they_are():
    model = Supernet.build_from_str("onnxw_tiny-000000-000000", 10, (32,)).train()
    QuantMode(placement="engine").apply(model)
    average = WeightAverage(model, 0.999)
    model(images())
    average.update()
    started = [(a, b) for a, b in zip(average.model.modules(), model.modules(), strict=True)
               if isinstance(a, TensorQuant) and b._started[1]]
    assert started
    for a, b in started:
        assert a._started == b._started
        assert torch.equal(a.activation_scale, b.activation_scale)


def test_every_trained_quantiser_gets_a_gradient():
    net = started(SPACE).train()
    net(images()).square().sum().backward()
    gradients = {name: module.activation_scale.grad for name, module in net.named_modules()
                 if isinstance(module, TensorQuant) and module.kind not in GATE_STEPS}
    assert gradients
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="'engine'; allowed: integer"):
        QuantMode(placement="engine", zero_point="float")
    with pytest.raises(UserError, match="'tensor'; allowed: lsq, engine"):
        QuantMode(placement="tensor")
    with pytest.raises(UserError, match="placement"):
        TrainConfig(placement="none")
    net = subnet(SPACE)
    QuantMode(placement="engine").apply(net)
    with pytest.raises(UserError, match=r"lsq\.pth"):
        lower(net, [images()])


@pytest.fixture
def sometimes(monkeypatch):
    """A space whose first blocks of a stage have a shortcut at small widths and none at the largest."""
    monkeypatch.setattr(_superspaces, "_values", dict(_superspaces._values))
    candidate = Candidate("FusedMBConv", kernels=(3,), expands=(1, 2), act="relu6")
    register_superspace(replace(get_superspace("onnxw_tiny"), name="sometimes_tiny", candidates=(candidate,)),
                        listed=False)
    return SupernetConfig.from_str("sometimes_tiny-000000-000000")


def test_a_shortcut_of_small_widths_alone_has_its_quantiser_in_the_supernet(sometimes):
    torch.manual_seed(0)
    supernet = Supernet(sometimes, 10, (32,))
    QuantMode(placement="engine").apply(supernet)
    images, labels, rng = torch.randn(8, 3, 32, 32), torch.arange(8), np.random.default_rng(0)
    largest = {name: stage.blocks for name, stage in supernet.stages.items()}
    found = 0
    for _ in range(400):
        choice = supernet.subnets.sample(rng)
        new = [block for stage, blocks in resolve(sometimes, choice, 10).stages
               for block, whole in zip(blocks, largest[stage], strict=False)
               if block.residual and not whole.spec.residual]
        if not new or found == 3:
            continue
        found += 1
        supernet.set_active_subnet(choice)
        supernet.train()
        torch.nn.functional.cross_entropy(supernet(images), labels).backward()
        subnet = supernet.eval().get_active_subnet().eval()
        assert all("add" in materialized(block) for block in new)
        with torch.no_grad():
            torch.testing.assert_close(subnet(images), supernet(images))
    assert found == 3


@pytest.mark.parametrize("name", ["onnxw", "mobilew", "onnxw_tiny", "cifarw", "cifarw_tiny", "cifarw_short"])
def test_no_block_of_the_projects_spaces_gains_a_tensor(name):
    """Their trained files stay as they are."""
    spaces, rng = Spaces(name), np.random.default_rng(0)
    for config in (spaces.random(rng) for _ in range(10)):
        for stage in config.space.stages:
            assert not any(block.sometimes_residual for block in largest_stage(config, stage.name, 10))
