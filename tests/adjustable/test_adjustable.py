"""Adjustable Quantization: the quantiser's gradients, the score against published values, training on the digits."""
import json
import runpy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deploy_nets import subnet
from processes import run_script

from modules.adjustable.config import AdjustConfig
from modules.adjustable.export import engine_graph, export_engines
from modules.adjustable.network import AdjustableNetwork
from modules.adjustable.points import front, read_points
from modules.adjustable.quantizer import AdjustableQuantizer, channel_range
from modules.adjustable.scoring.cost import LayerCost, micronet_score, pair_bits
from modules.adjustable.scoring.score import NetworkCost, part_score, total
from modules.adjustable.start import evaluate_adjustable, learned_ranges, load_adjustable
from modules.adjustable.training import FILES, NAME, AdjustTrainer, distillation_loss
from modules.deploy.graph.graph import WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.graph.padding import pad_channels
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.to_onnx.writer import onnx_bytes
from modules.modeling.blocks import module_name
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.modeling.public_weights.tensorflow import _ported
from modules.modeling.supernet import Supernet
from modules.runtime.ort import optimized_ops
from modules.search_space.config import SupernetConfig
from modules.search_space.reference import read_network
from modules.training.config import TrainConfig
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.training.trainer import train
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.runs import Run

SPACE = SupernetConfig.from_str("onnxw_tiny-053412-000000")
CHOICE = Supernet(SPACE, 10, (32,)).subnets.extreme(min)


def composed(x, quantizer):
    """The published formulas, rounding passed straight through, in elementary operations."""
    def round_through(v):
        return v + (v.round() - v).detach()

    q = quantizer
    bits = round_through(q.bits_scale * 8).clamp(2, 8)
    width = q.width * q.width_scale.clamp(0, 2)
    low = q.low + q.width * q.shift.clamp(-0.6, 1.2)
    top = 2**bits - 1
    s = top / (width + 1e-7)
    shape = [-1 if i == q.axis else 1 for i in range(x.ndim)]
    low, s, top = low.view(shape), s.view(shape), top.view(shape)
    z = round_through(low * s)
    code = round_through(x * s) - z
    code = torch.where(code > top, top.expand_as(code), torch.where(code < 0, 0, code))
    return (code + z) / s


def quantizer_of(x, axis=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ends = channel_range(x, axis) if axis is not None else (x.detach().min().view(1), x.detach().max().view(1))
    q = AdjustableQuantizer(*ends, axis).double()
    with torch.no_grad():
        for p, spread in ((q.width_scale, 0.3), (q.shift, 0.3), (q.bits_scale, 0.6)):
            p += spread * torch.randn(len(p), generator=generator, dtype=torch.float64)
        if axis is None:  # not at the bounds, where there is no gradient; and some values are outside of the range
            q.bits_scale.fill_(0.6)
            q.width_scale.fill_(0.6)
    return q


@pytest.mark.parametrize(("shape", "axis"), [((5, 7, 11), 1), ((7, 5, 3, 3), 0), ((7, 4), 1), ((9, 4), 0),
                                             ((40,), None), ((5, 3, 4, 4), None), ((5, 7, 4, 3), 1)])
def test_values_and_gradients_are_those_of_the_published_formulas(shape, axis):
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    if shape[-1] == 3:  # not in one piece of memory
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    q = quantizer_of(x.requires_grad_(), axis)
    parameters = [x, q.width_scale, q.shift, q.bits_scale]
    ours, expected = q(x), composed(x, q)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad((ours * weight).sum(), parameters)
    wanted = torch.autograd.grad((expected * weight).sum(), parameters)
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    if axis == 1:
        codes = torch.tensor([len(ours[:, i].unique()) for i in range(shape[1])])
        assert (codes <= 2 ** q.bits()).all()


def test_gradients_are_the_slopes_where_rounding_is_fine():
    """With 8 bits the quantised value moves as its range does, but for rounding: finite differences see it."""
    x = torch.linspace(-3, 3, 4001, dtype=torch.float64).view(1, 1, -1)
    q = AdjustableQuantizer(torch.tensor([-1.0]), torch.tensor([1.5]), 1).double()
    for parameter, step in ((q.width_scale, 0.2), (q.shift, 0.2)):
        gradient, = torch.autograd.grad(q(x).mean(), parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step
                values.append(q(x).mean().item())
                parameter -= sign * step
        assert gradient.item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=0.02)


def test_bits_stay_between_two_and_eight():
    q = AdjustableQuantizer(torch.zeros(4), torch.ones(4), 1)
    with torch.no_grad():
        q.bits_scale.copy_(torch.tensor([0.1, 0.25, 0.56, 1.3]))
    assert q.bits().tolist() == [2, 2, 4, 8]
    q.bits().sum().backward()
    assert q.bits_scale.grad.tolist() == [0, 8, 8, 0]
    assert AdjustableQuantizer(torch.zeros(3), torch.ones(3), 1, bits_trainable=False).bits().tolist() == [8, 8, 8]
    torch.testing.assert_close(q(torch.full((1, 4, 2), 0.4))[0, :, 0], torch.tensor([1 / 3, 1 / 3, 6 / 15, 102 / 255]))


def test_bits_of_products_and_their_gradients():
    generator = torch.Generator().manual_seed(0)
    weight, activation = (torch.randint(2, 9, (n,), generator=generator).double() for n in (37, 50))
    assert pair_bits(weight, activation, False).item() == pytest.approx(
        torch.maximum(weight[:, None], activation[None]).mean().item())
    assert pair_bits(weight, weight.flip(0), True).item() == torch.maximum(weight, weight.flip(0)).mean().item()
    weight.requires_grad_()
    activation.requires_grad_()
    micronet_score([LayerCost(1000, 5000, weight, activation)], gamma=0.6).backward()
    assert weight.grad.tolist() == pytest.approx([1000 / (32 * 37 * 6.9e6) + 0.4 * 2 * 5000 / (32 * 37 * 1170e6)] * 37)
    assert activation.grad.tolist() == pytest.approx([0.6 * 2 * 5000 / (32 * 50 * 1170e6)] * 50)
    own = micronet_score([LayerCost(1000, 5000, torch.full((4,), 8.0), torch.full((3,), 8.0))], norms="own")
    assert own.item() == pytest.approx(0.5)


def test_network_is_the_float_one_until_calibrated():
    net, images = subnet("onnxw_tiny-053412-000000", pick=max), torch.randn(8, 3, 32, 32)
    network = AdjustableNetwork(lower(net))
    with torch.no_grad():
        expected = net(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
        large = torch.randn(2, 3, 48, 48)
        torch.testing.assert_close(network(large), net(large), rtol=1e-4, atol=1e-5)
        assert (network.calibrate([images[:4], images[4:]])(images) - expected).std() < 0.05 * expected.std()
        torch.testing.assert_close(network.quantize(False)(images), expected, rtol=1e-4, atol=1e-5)
    network.quantize()
    layers, biases, _ = network.costs()
    assert sum(layer.macs for layer in layers) / 1e6 == pytest.approx(count_net_flops_and_params(net)[0])
    assert biases == sum(m.num_features for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert [layer.input_bits is None for layer in layers].count(True) == 1
    (network(images).square().mean() + micronet_score(*network.costs())).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]
    with torch.no_grad():
        for parameter in network.bit_parameters():
            parameter.fill_(0.25)
        assert (network(images) - expected).std() > 0.2 * expected.std()


def test_distillation_loss():
    a, b = torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[0.0, 2], [0, 3]])
    assert distillation_loss(a, b).item() == pytest.approx(0.01 * (1 + 3 + 2 * 1e-5**0.5) / 2, rel=1e-4)


def test_when_bits_move_and_weights_are_averaged():
    config = AdjustConfig(bits_trainable=True, iter_train=True, warm_up_epoch=0.3, swa_delay=0.2, swa_freq=0.1)
    assert [k for k in range(10) if config.moves_bits(k)] == [4, 6, 8]
    assert [k for k in range(10) if config.averages(k)] == [2, 3, 4, 5, 6, 7, 8, 9]  # the published eight
    assert not any(AdjustConfig(bits_trainable=True, finetune=True).moves_bits(k) for k in range(30))
    for wrong, message in (({"range": "9"}, "allowed: 1, 2"), ({"norms": "his"}, "allowed: micronet, own"),
                           ({"gamma": 2.0}, "0 to 1"), ({"reinit": 0}, "1 or more"),
                           ({"granularity": "layer", "weight_bits": 6}, "weight_bits 6 with .*allowed: 4 or 8"),
                           ({"granularity": "layer", "act_bits": 4}, "act_bits 4 with .*allowed: 8")):
        with pytest.raises(UserError, match=message):
            AdjustConfig(0.18, **wrong)


@pytest.mark.parametrize(("options", "words"), [
    ({"swa_delay": 0.0, "swa_freq": 1.0}, r"--swa_freq 1: .*allowed: 0 to below 1"),
    ({"swa_delay": 0.0, "swa_freq": 2.0}, r"--swa_freq 2: "),
    ({"swa_delay": 2.0}, r"--swa_delay 2 .*allowed: 0 to 1\.8"), ({"swa_delay": 1.8}, ""),
    ({"swa_delay": 0.0, "swa_freq": 0.95}, ""), ({"swa_freq": 1.0}, "")])
def test_an_average_of_nothing_is_refused(options, words):
    config = AdjustConfig(**options)
    assert any(map(config.averages, range(20))) == (config.swa_delay is not None and not words)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        config.check_average()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with the fp32 checkpoint of one subnet, trained on the digits, and an LSQ+ one."""
    folder = tmp_path_factory.mktemp("digits")
    config = TrainConfig(dataset="digits", augment="default", resolutions=(32,), epochs=8, warmup_epochs=1, base_lr=0.4,
                         batch_size_per_gpu=32, valid_size=240, subnet_choice=str(CHOICE), models_save_dir=str(folder),
                         data_loader_workers_per_gpu=0, valid_freq=8, weight_decay_weight=0.0, dropout=0.0,
                         quant_epochs=1, quant_warmup_epochs=0)
    train(config, SPACE)
    train(config.for_quantization(), SPACE, quant_mode=True)
    return folder


def trainer(digits, folder, resume=False, overwrite=False, start=None, int8=False, options=None, **changes
            ) -> AdjustTrainer:
    path = digits / f"{SPACE}-align0" / ("lsq.pth" if int8 else "checkpoint.pth")
    evaluator = SubnetEvaluator.open(path, SPACE, quant_mode=int8, valid_size=None, calibration_batches=4)
    settings = {"metric": 0.3, "norms": "own", "lr": 3e-4, "lr_bits": 0.02, "bits_trainable": True, "max_epoch": 2,
                "batch_size": 24, "swa_delay": 1.5, "swa_freq": 0.1}
    with Run(folder / NAME, files=FILES, resume=resume, overwrite=overwrite, option="--output_dir") as opened:
        return AdjustTrainer(evaluator, CHOICE, AdjustConfig(**settings | changes), opened, start=start,
                             **(options or {}))


def test_training_reaches_the_score_and_keeps_the_accuracy(digits, tmp_path):
    run = trainer(digits, tmp_path)
    run.run()
    start, last, average = run.history[0], run.history[-2], run.history[-1]
    assert start["score"] == pytest.approx(0.5, abs=0.02)
    for entry in (last, average):  # on the right side of the target, and near it
        assert 0.29 < entry["score"] <= 0.3
    for name, entry in (("adj.pth.json", last), ("adj_swa.pth.json", average)):
        assert json.loads((tmp_path / name).read_text())["top1"] == entry["top1"]
    assert {path.name for path in tmp_path.glob("*.png")} == {"bits.png", "curves.png", "front.png"}
    assert start["top1"] > 75
    assert min(last["top1"], average["top1"]) > start["top1"] - 8
    assert average["average"]
    info = json.loads((tmp_path / "quant_info.json").read_text())
    bits = np.concatenate([layer["weight"] for block in info.values()
                           for layer in ([block] if "weight" in block else block.values())])
    assert 2 <= bits.min() < bits.max() <= 8
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 23
    evaluator = run.evaluator
    for name, entry in (("adj.pth", last), ("adj_swa.pth", average)):
        network, config, accuracy = evaluate_adjustable(tmp_path / name, evaluator)
        assert accuracy.top1 == pytest.approx(entry["top1"], abs=1e-4)
        assert micronet_score(*network.costs(), norms=config.norms).item() == pytest.approx(entry["score"])
    kept = read_points(tmp_path)
    assert kept == front(run.points)
    for point in kept:
        assert evaluate_adjustable(tmp_path / point.file, evaluator)[2].top1 == pytest.approx(point.top1, abs=1e-4)
    # A point that only the average beats keeps its file, too.
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {
        Path(point.file).name for point in front([point for point in run.points if not point.average])}
    cost = NetworkCost(untrained_graph(SPACE, CHOICE, int8=False, num_classes=10))
    parts = cost.parts(cost.read(tmp_path / "quant_info.json", 8, 8))
    counted = micronet_score(*evaluate_adjustable(tmp_path / "adj.pth", evaluator)[0].costs())
    assert part_score(total(parts), "repository") == pytest.approx(counted.item(), rel=1e-6)
    again = trainer(digits, tmp_path / "again", options={"thresholds": tmp_path / "initial_thresholds.json"})
    assert again.validate()["top1"] == pytest.approx(start["top1"], abs=1e-4)
    for changes, message in (({"bits_trainable": False}, "add --bits_trainable --finetune to keep its bits"),
                             ({"swish_bits": 0}, "with swish_bits 8, and this run has 0; add --swish_bits 8"),
                             ({"mix_prec": True}, "leave out --mix_prec")):
        with pytest.raises(UserError, match=message):
            trainer(digits, tmp_path / "none", start=tmp_path / "adj.pth", **changes).prepare()
    stranger = load_checkpoint(tmp_path / "adj.pth")
    stranger["config"] |= {"classes": [f"other {name}" for name in stranger["config"]["classes"]]}
    save_checkpoint(tmp_path / "stranger.pth", stranger)
    with pytest.raises(UserError, match="classes are not those of"):  # the same subnet, another task
        trainer(digits, tmp_path / "none", start=tmp_path / "stranger.pth").prepare()
    tuned = trainer(digits, tmp_path / "tuned", start=tmp_path / "adj.pth", finetune=True, beta=0.0, max_epoch=1,
                    swa_delay=None)
    tuned.prepare()
    assert tuned.score().item() == pytest.approx(last["score"])
    before = [p.clone() for p in tuned.bits]
    assert tuned.run()["score"] == pytest.approx(last["score"])
    assert all(torch.equal(a, b) for a, b in zip(before, tuned.bits, strict=True))
    with pytest.raises(UserError, match=r"is not one of adj_quant.*goes to --checkpoint_path"):
        trainer(digits, tmp_path / "none", start=evaluator.path).prepare()
    with pytest.raises(UserError, match="is not one of adj_quant"):
        evaluate_adjustable(evaluator.path, evaluator)
    with pytest.raises(UserError, match="--resume"):
        trainer(digits, tmp_path)
    with pytest.raises(UserError, match=r"metric was 0\.3"):
        trainer(digits, tmp_path, resume=True, metric=0.2).prepare()


def test_a_run_without_bits_may_get_them_and_its_start_is_the_trained_network(digits, tmp_path, capsys):
    fixed = trainer(digits, tmp_path / "fixed", bits_trainable=False, weight_bits=5, max_epoch=1, swa_delay=None)
    end = fixed.run()
    assert {bits for layer in fixed.network.bits()[0].values() for bits in layer} == {5}
    bits = trainer(digits, tmp_path / "bits", weight_bits=5, start=tmp_path / "fixed" / "adj.pth")
    assert bits.validate() == {"mini_epoch": 0, "average": False, "top1": end["top1"], "score": end["score"]}
    assert "has no trained bits; they start at" in capsys.readouterr().out


def test_an_lsq_checkpoint_starts_with_its_learned_codes(digits, tmp_path):
    """What the quantisers make of a trained weight, and of what its layer reads, is what the integers stand for."""
    start = trainer(digits, tmp_path, int8=True)
    assert start.validate()["top1"] > 75
    graph, alone = start.network.graph, 0
    for node in (node for node in graph.nodes if isinstance(node, WeightNode)):
        layer, column = start.network.layers[module_name(node.output)], (-1,) + (1,) * (node.codes.ndim - 1)
        expected = node.codes * node.scales.reshape(column)
        alive = np.abs(node.codes).reshape(len(node.codes), -1).max(1) > 0  # the others were silenced for the engine
        steps = np.abs(layer.weight_quantizer(layer.weight).detach().numpy() - expected) / node.scales.reshape(column)
        # 1e-7 beside the width of 255 steps, as published, makes the steps of a nearly silent channel longer; half of
        # that comes to the error of rounding.
        blurred = np.broadcast_to(1e-7 / 255 / node.scales.reshape(column) / 2, steps.shape)
        assert (steps - blurred)[alive].max(initial=0) < 1.01
        inside = steps[alive][node.codes[alive] > -127]  # training has code -128 too
        assert (inside > 0.6).sum() <= 0.01 * steps.size  # weights that lie between two codes
        name = node.inputs[0]
        if module_name(name) in start.network.tensors and len(graph.consumers[name]) == 1:
            low, scale, _ = start.network.tensors[module_name(name)].grid()
            assert (1 / scale[0].item(), low[0].item()) == pytest.approx(
                (node.quantizer.scale, -node.quantizer.zero_point * node.quantizer.scale), rel=1e-4)
            alone += 1
    assert alone > 10
    codes = -64, 63  # of weights of seven bits: as many steps of the trained scale apart as their quantiser has
    for node in (node for node in graph.nodes if isinstance(node, WeightNode)):
        low, high = learned_ranges(graph, start.network, 7)[0][node.output]
        for end, code in ((low, codes[0]), (high, codes[-1])):
            assert np.allclose(end / node.scales, code, atol=1e-4)
    own = trainer(digits, tmp_path, int8=True,
                  options={"teacher": str(digits / f"{SPACE}-align0" / "checkpoint.pth")})
    own.prepare()
    images = own.evaluator.calibration[0]
    with torch.no_grad():
        expected = trainer(digits, tmp_path).evaluator.subnet(CHOICE)(images)
        torch.testing.assert_close(own.teacher(images), expected, rtol=1e-4, atol=1e-4)


def test_the_target_is_a_band_of_scores():
    config = AdjustConfig(metric=0.2, dead_band=0.05)
    assert [config.sign(score) for score in (0.3, 0.2001, 0.2, 0.191, 0.189)] == [1, 1, 0, 0, -1]


def test_switches_of_the_quantisers():
    net, images = subnet("onnxw_tiny-053412-000000", pick=max), torch.randn(8, 3, 32, 32)

    def of(**settings):
        return AdjustableNetwork(lower(net), AdjustConfig(**settings).quantizers).calibrate([images])

    float_weights = of(mix_prec=True).bits()[0]
    assert {name for name, bits in float_weights.items() if set(bits) == {32}} == {
        name for name in float_weights if ".se." in name or name in ("output", "first_conv.0.conv")}
    assert len(of(swish_bits=-1).tensors) < len(of().tensors)
    learned = of(swish_bits=0, bits_trainable=True)
    assert len(learned.bit_parameters()) > len(of(bits_trainable=True).bit_parameters())
    assert learned.score(0.7, "micronet").item() == pytest.approx(of().score(0.7, "micronet").item(), rel=1e-6)
    with torch.no_grad():
        for parameter in learned.bit_parameters():
            parameter.fill_(0.5)
    assert learned.score(0.7, "micronet") < of(weight_bits=4, act_bits=4).score(0.7, "micronet")
    assert of(bias_bits=0).score(0.7, "own") > of().score(0.7, "own")
    with torch.no_grad():
        assert (of(bias_bits=2)(images) - of(bias_bits=0)(images)).abs().max() > 0


def test_layers_of_4_and_8_bits_run_in_engines(digits, tmp_path):
    run = trainer(digits, tmp_path, granularity="layer", max_epoch=1, metric=0.4, swa_delay=None, lr_bits=0.05)
    last = run.run()
    assert last["score"] <= 0.4
    weights, acts = run.network.bits()
    assert {bits for layer in weights.values() for bits in layer} == {4, 8}
    assert all(len(set(layer)) == 1 for layer in weights.values())
    assert {bits for tensor in acts.values() for bits in tensor} == {8}
    rows = export_engines(run.network, run.evaluator, CHOICE, tmp_path / "files", ("onnx", "tflite"), 3)
    assert [row.precision for row in rows] == ["fp32", "mixed"] * 2
    for row in rows:
        assert row.agreement >= (99.9 if row.precision == "fp32" else 97)
        assert (tmp_path / "files" / f"{row.file}.json").is_file()
    onnx = tmp_path / "files" / rows[1].file
    ops = optimized_ops(onnx, tmp_path)
    assert ops["QLinearConv"] > 0
    assert not {"Conv", "Cast"} & set(ops)  # no float convolution, and int4 became int8 when the file was opened
    graph = engine_graph(run.network, run.evaluator.calibration)
    eight = len(onnx_bytes(replace(graph, nodes=[
        replace(node, bits=8) if isinstance(node, WeightNode) else node for node in graph.nodes])))
    stored = pad_channels(graph).nodes
    halved = sum(node.codes.size for node in stored if isinstance(node, WeightNode) and node.bits == 4) / 2
    assert eight - len(onnx_bytes(graph)) == pytest.approx(halved, rel=0.15)
    with pytest.raises(UserError, match="train it with --granularity layer"):
        engine_graph(AdjustableNetwork(graph), [])


def test_the_bias_of_a_gate_of_tiny_weights_has_32_bits(digits, tmp_path):
    """The engine adds 3 to the bias of a hard sigmoid's layer: that sum is an int32 at the products' scale too."""
    run = trainer(digits, tmp_path, granularity="layer", max_epoch=1, metric=0.4, swa_delay=None)
    run.prepare()
    gates = {node.inputs[0] for node in run.network.nodes if node.kind == "hard_sigmoid"}
    assert gates
    with torch.no_grad():
        for name in gates:
            run.network.layers[module_name(name)].weight.mul_(1e-8)
            run.network.layers[module_name(name)].bias.zero_()
    run.network.set_ranges({name: (torch.tensor(-1e-7), torch.tensor(1e-7)) for name in gates}, {})
    graph = engine_graph(run.network, run.evaluator.calibration)
    for node in graph.nodes:
        if node.output in gates:
            step = node.scales.astype(np.float64) * node.quantizer.scale
            assert (np.abs(node.bias + 3) / step < 2**31).all()


def test_public_weights_of_efficientnet_start_a_run(tmp_path):
    network = read_network("efficientnet_b0_tf:0.25")
    torch.manual_seed(0)
    supernet = Supernet(network.space, 10, (224,))
    weights = supernet.state_dict()
    spec = resolve(network.space, network.subnet, 10)
    torch.save({theirs: weights[ours] for ours, theirs in _ported(spec)}, tmp_path / "b0.pth")
    evaluator = SubnetEvaluator.open(tmp_path / "b0.pth", network.space, quant_mode=False, dataset="digits",
                                     valid_size=10, batch_size=4, calibration_batches=1, augment="default")
    small = network.at(160).subnet
    with Run(tmp_path / NAME, resume=False, overwrite=False, option="--output_dir") as opened:
        run = AdjustTrainer(evaluator, small, AdjustConfig(bits_trainable=True, batch_size=4), opened)
        assert run.validate()["score"] == pytest.approx(run.score().item())
        images, labels = next(iter(evaluator.validation_batches()))
        assert images.shape[2:] == (160, 160)
        save_checkpoint(tmp_path / "run.pth", run.model_state())
        again = SubnetEvaluator.open(tmp_path / "b0.pth", network.space, quant_mode=False, dataset="digits",
                                     valid_size=10, batch_size=4, calibration_batches=1, augment="default")
        load_adjustable(tmp_path / "run.pth", again)
        assert next(iter(again.validation_batches()))[0].shape == images.shape  # images as large as in training
        run._train_step(images, labels)
        assert not [name for name, p in run.network.named_parameters() if p.grad is None]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(digits, tmp_path):
    changes = {"max_epoch": 1, "reinit": 10, "swa_delay": 0.2, "iter_train": True}
    trainer(digits, tmp_path / "whole", **changes).run()
    stopped = trainer(digits, tmp_path / "parts", **changes)
    validate = stopped._validate

    def stop(average=False):
        if stopped.mini_epoch == 6:
            raise KeyboardInterrupt
        validate(average)

    stopped._validate = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = trainer(digits, tmp_path / "parts", resume=True, **changes)
    resumed.prepare()
    assert resumed.mini_epoch == 5
    resumed.run()
    for name in ("adj.pth", "adj_swa.pth"):
        a, b = (load_checkpoint(tmp_path / part / name)["state_dict"] for part in ("whole", "parts"))
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "parts" / "history.csv").read_text()
    points = (tmp_path / "whole" / "points.csv").read_text()
    (tmp_path / "parts" / "points.csv").write_text(points[:len(points) // 2])  # a kill before the last ones were there
    trainer(digits, tmp_path / "parts", resume=True, **changes).run()
    assert (tmp_path / "parts" / "points.csv").read_text() == points
    other = trainer(digits, tmp_path / "parts", resume=True, **changes)
    other.evaluator.calibration_batches = 5
    with pytest.raises(UserError, match=r"--num_calib_batches was 4 when .* and is 5 now"):
        other.run()
    with pytest.raises(UserError, match=r"adj\.pth' is of onnxw_tiny-053412-000000, not of resnet8"):
        load_adjustable(tmp_path / "parts" / "adj.pth", SimpleNamespace(space="resnet8"))


def test_too_few_images_for_the_mini_epochs_are_refused(digits, tmp_path):
    with pytest.raises(UserError, match=r"--batch_size 150: 1202 training images are fewer than 10 batches.*up to 120"):
        trainer(digits, tmp_path, batch_size=150).run()
    assert not list(tmp_path.iterdir())


def test_overwriting_removes_the_earlier_average(digits, tmp_path, monkeypatch):
    for name in ("adj.pth", "adj_swa.pth", "history.csv"):
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(UserError, match=r"adj\.pth"):  # no checkpoint: nothing is continued, nothing lost
        trainer(digits, tmp_path, resume=True).run()
    assert (tmp_path / "adj_swa.pth").read_bytes() == b"old"
    again = trainer(digits, tmp_path, overwrite=True)
    monkeypatch.setattr(again, "_validate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        again.run()
    assert not list(tmp_path.iterdir())


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(("options", "message"), [
    ("--network resnet20 -e", "--eval_initial_thresholds without --initial_thresholds; expected the file"),
    ("--network resnet20 --pick score<=0.3", "--pick score<=0.3 without --ckpt_path; expected the folder of a run"),
    ("--network resnet20 --subnet_choice d1#1", "--subnet_choice d1#1 with --network, which names a subnet")])
def test_options_that_need_others_are_refused(options, message):
    script = runpy.run_path(str(REPOSITORY / "adj_quant" / "train.py"))
    with pytest.raises(UserError, match=message):
        script["parse_args"](options.split())


def test_scripts(digits, tmp_path):
    def run(script, *options):
        return run_script(f"adj_quant/{script}.py", "--superspace", "onnxw_tiny", "--supernet_choice", "053412-000000",
                          "--checkpoint_path", digits, *options)

    done = run("train", "--subnet_choice", CHOICE, "--bits_trainable", "--max_epoch", 1, "--batch_size", 100,
               "--norms", "own", "--aug", "--augment", "default", "--metric", 0.4, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "score=" in done.stdout.splitlines()[-1]
    done = run("eval", "--model", tmp_path / "adj.pth")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("data set digits: 10 classes")
    assert "8 (image)" in done.stdout.splitlines()[2]
    for options, what in ((("--subnet_choice", CHOICE, "--range", 9), "allowed: 1, 2"),
                          (("--subnet_choice", str(CHOICE).replace("r32", "r48")), "48"),
                          ((), "--superspace onnxw_tiny without --subnet_choice")):
        done = run("train", *options, "--output_dir", tmp_path / "other")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert what in done.stderr
