"""The published files in and out, the points of a run, and the last step to the target."""
import json

import numpy as np
import pytest
import torch
from deploy_nets import subnet

from modules.adjustable.config import QuantizerSettings
from modules.adjustable.files import (
    read_model_info,
    read_quant_info,
    read_thresholds,
    write_model_info,
    write_quant_info,
    write_thresholds,
)
from modules.adjustable.network import AdjustableNetwork
from modules.adjustable.placement import Placement, layer_places
from modules.adjustable.points import Point, chosen_file, front, pick, read_points, write_points
from modules.adjustable.quantizer import AdjustableQuantizer, channel_range, land
from modules.adjustable.scoring.score import NetworkCost, part_score, total
from modules.deploy.graph.graph import WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.graph.untrained import untrained_graph
from modules.search_space.reference import read_network
from modules.utils.errors import UserError


@pytest.fixture(scope="module")
def b0():
    """EfficientNet-B0 with 1000 classes and no trained weights."""
    network = read_network("efficientnet_b0")
    return AdjustableNetwork(untrained_graph(network.space, network.subnet, int8=False))


def channels(network):
    return {name: shape[0] for name, shape in network.shapes.items()}


# The keys of the published file of EfficientNet-B0: 229 entries, with that of the image, which is not quantised.
B0_PARTS = ("expand", "dws", "se_1", "se_2", "project")
B0_SCOPES = ["Conv", *(f"expanded_conv_{i}/{part}" for i in range(16) for part in B0_PARTS[i == 0:]), "Conv_1"]
B0_RANGES = {f"{scope}/weights" for scope in (*B0_SCOPES, "output")}
B0_RANGES |= {f"{scope}/output" for scope in B0_SCOPES if not scope.endswith("se_2")}
B0_RANGES |= {f"expanded_conv_{i}/output" for i in range(16)}  # behind the gate
B0_RANGES |= {f"{scope}/swish_input" for scope in B0_SCOPES if not scope.endswith("project")}
# Three entries of adj_quant/initial_thresholds.json of tilmto/Adjustable-Quantization-MicroNet, as they stand there.
PUBLISHED = {
    "expanded_conv_0/se_1/weights": {
        "min": [-0.4863179922103882, -0.19854040443897247, -0.49015527963638306, -0.43390509486198425,
                -0.4671328365802765, -0.7946099638938904, -0.4210328459739685, -0.5951480269432068],
        "max": [0.14380326867103577, 0.13199596107006073, 0.5093390941619873, 0.12589091062545776,
                0.5551381707191467, 0.17556200921535492, 0.16338202357292175, 0.19797809422016144]},
    "expanded_conv_1/se_1/weights": {
        "min": [-0.13982069492340088, -0.17784397304058075, -0.2915877401828766, -0.25791844725608826],
        "max": [0.07580599188804626, 0.19927655160427094, 0.10306727141141891, 0.12609757483005524]},
    "expanded_conv_0/project/output": {
        "min": [-92.29727935791016, -78.0483627319336, -42.023006439208984, -29.065275192260742, -93.93333435058594,
                -38.3917236328125, -45.71113204956055, -96.83160400390625, -127.35503387451172, -89.4541244506836,
                -58.37166213989258, -86.19676208496094, -117.23992919921875, -93.5772476196289, -46.177371978759766,
                -121.72272491455078],
        "max": [87.56560516357422, 80.85318756103516, 57.31150817871094, 119.41837310791016, 55.033912658691406,
                104.46528625488281, 69.51102447509766, 103.8198013305664, 64.9673080444336, 106.0811538696289,
                60.55433654785156, 55.22421646118164, 50.65160369873047, 116.44466400146484, 52.29179382324219,
                92.63157653808594]}}


def test_ranges_of_efficientnet_b0_have_the_published_keys_and_come_back(b0, tmp_path):
    assert len(B0_RANGES | {"input_data/output"}) == 229
    generator = np.random.default_rng(0)
    weights, tensors = b0.ranges()
    drawn = [{name: (-generator.random(len(low), np.float32), generator.random(len(low), np.float32))
              for name, (low, _) in part.items()} for part in (weights, tensors)]
    write_thresholds(tmp_path / "ranges.json", b0.placement, *drawn)
    content = json.loads((tmp_path / "ranges.json").read_text())
    assert set(content) == B0_RANGES
    assert {key: len(content[key]["min"]) for key in ("Conv/weights", "expanded_conv_1/dws/weights", "output/weights",
                                                      "expanded_conv_1/se_1/output", "Conv_1/swish_input")} == {
        "Conv/weights": 32, "expanded_conv_1/dws/weights": 96, "output/weights": 1000, "expanded_conv_1/se_1/output": 4,
        "Conv_1/swish_input": 1280}
    content["input_data/output"] = {"min": [0.0] * 3, "max": [1.0] * 3}
    for end in content["output/weights"].values():
        end.insert(0, 77.0)  # the background's
    (tmp_path / "ranges.json").write_text(json.dumps(content))
    b0.set_ranges(*read_thresholds(tmp_path / "ranges.json", b0.placement, *[channels(b0)] * 2))
    for found, expected in zip(b0.ranges(), drawn, strict=True):
        for name, ends in expected.items():
            np.testing.assert_allclose(found[name], ends, rtol=0, atol=1e-6)
    (tmp_path / "published.json").write_text(json.dumps(content | PUBLISHED))
    b0.set_ranges(*read_thresholds(tmp_path / "published.json", b0.placement, *[channels(b0)] * 2))
    found = [ends for part in b0.ranges() for ends in part.values()]
    for entry in PUBLISHED.values():
        assert any(len(low) == len(entry["min"]) and np.allclose(low, entry["min"]) and np.allclose(high, entry["max"])
                   for low, high in found)
    for damage, message in ((lambda c: c.pop("Conv/output"), r"Conv/output\.min is missing; expected 32 numbers"),
                            (lambda c: c["Conv/output"].update(max=[1, 2]), r"Conv/output\.max is 2 numbers; "),
                            (lambda c: c["Conv/output"]["max"].__setitem__(3, -2.0),
                             r"Conv/output of channel 3 has a minimum of .*, above its maximum of -2"),
                            (lambda c: c["Conv/output"].update(max="x"), r"Conv/output\.max is something else")):
        broken = json.loads(json.dumps(content))
        damage(broken)
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=message):
            read_thresholds(tmp_path / "broken.json", b0.placement, *[channels(b0)] * 2)


def test_ranges_of_the_tensors_are_those_of_the_values(tmp_path):
    """What a file says of a layer's output is what the float network gives there."""
    net, images = subnet("onnxw_tiny-053412-000000", pick=max), torch.randn(8, 3, 32, 32)
    graph = lower(net)
    network = AdjustableNetwork(graph).calibrate([images[:4], images[4:]])
    write_thresholds(tmp_path / "ranges.json", network.placement, *network.ranges())
    content = json.loads((tmp_path / "ranges.json").read_text())
    seen = {}
    with torch.no_grad():  # as the calibration: in a pass that learns, convolutions have forms that round otherwise
        network.quantize(False)._run(images, lambda name, value: seen.setdefault(name, value.clone()))
    assert len(network.placement.acts) > 20
    for layer, tensor in network.placement.acts.items():
        scope = "/".join((".".join(layer.split(".")[:2]), layer.split(".", 2)[2]))
        low, high = channel_range(seen[tensor], 1)
        np.testing.assert_allclose(content[f"{scope}/output"]["min"], low, atol=1e-6)
        np.testing.assert_allclose(content[f"{scope}/output"]["max"], high, atol=1e-6)


def older_counts(content, network):
    """The counts as the first published file has them: factor and shift of a norm with its layer, no biases apart."""
    older = {key: json.loads(json.dumps(value)) for key, value in content.items() if key != "total_bias"}
    places = layer_places(network.nodes)
    for node in network.nodes:
        if isinstance(node, WeightNode) and node.bias_from == "norm":
            parameters = older[places[node.output].block.removesuffix("_0")][0]
            for part in {places[node.output].part or "total", "total"}:
                parameters[part] += 2 * len(node.bias)
    return older


def test_counts_of_efficientnet_b0_are_those_of_the_published_file(b0, tmp_path):
    layers, biases, _ = b0.costs()
    write_model_info(tmp_path / "model_info.json", b0.placement, layers, biases)
    content = json.loads((tmp_path / "model_info.json").read_text())
    assert content["Conv"] == [{"total": 864}, {"total": 10838016}]
    assert content["expanded_conv"] == [  # the published first block has no number
        {"dws": 288, "se_1": 264, "se_2": 288, "project": 512, "expand": 0, "total": 1352},
        {"dws": 3612672, "se_1": 256, "se_2": 256, "project": 6422528, "expand": 0, "total": 10035712}]
    assert content["expanded_conv_12"][0]["total"] == 582960
    assert content["Logits"] == [{"total": 1282281}, {"total": 1280000}]
    assert content["total_bias"] == 21008
    content["Logits"][0]["total"] += 6_900_000
    (tmp_path / "more.json").write_text(json.dumps(content))
    read, _ = read_model_info(tmp_path / "more.json", b0.placement, layers)
    assert read[-1].parameters == layers[-1].parameters + 6_900_000
    network = read_network("efficientnet_b0")
    cost = NetworkCost(untrained_graph(network.space, network.subnet, int8=False), tmp_path / "more.json")
    assert part_score(total(cost.parts(cost.uniform(8, 8, 8, 8))), "repository") == pytest.approx(0.359725 + 0.25,
                                                                                                  abs=1e-6)
    content["Logits"][0]["total"] -= 6_900_000
    older = older_counts(content, b0)
    assert sum(parameters["total"] for parameters, _ in older.values()) == 5_289_829
    (tmp_path / "older.json").write_text(json.dumps(older))
    cost = NetworkCost(cost.graph, tmp_path / "older.json")
    for bits, published in ((8, 0.360486), (4, 0.184532), (3, 0.140544)):
        assert part_score(total(cost.parts(cost.uniform(bits, bits, 8, 8))), "repository") == pytest.approx(published,
                                                                                                           abs=6e-7)
    del content["expanded_conv_3"]
    (tmp_path / "more.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="expanded_conv_3 has no two numbers 'expand'"):
        read_model_info(tmp_path / "more.json", b0.placement, layers)


def test_bits_go_out_and_come_back(b0, tmp_path):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in b0.bit_parameters():
            parameter.copy_(torch.randint(2, 9, parameter.shape, generator=generator) / 8)
    weights, acts = b0.bits()
    write_quant_info(tmp_path / "quant_info.json", b0.placement, weights, acts)
    content = json.loads((tmp_path / "quant_info.json").read_text())
    assert content["expanded_conv_0"]["expand"] == {"weight": 0.0, "act": 0.0}
    assert content["output"]["act"] == 0.0
    assert len(content["expanded_conv_1"]["dws"]["act"]) == 96
    read = read_quant_info(tmp_path / "quant_info.json", b0.placement, channels(b0))
    for found, expected in zip(read, (weights, acts), strict=True):
        assert {name: list(bits) for name, bits in found.items()} == expected
    network = read_network("efficientnet_b0")
    cost = NetworkCost(untrained_graph(network.space, network.subnet, int8=False))
    scored = part_score(total(cost.parts(cost.read(tmp_path / "quant_info.json", 8, 8))), "repository")
    assert scored == pytest.approx(b0.score(0.7, "micronet").item(), rel=1e-6)
    content["Conv"]["weight"] = [0.5] * 32
    (tmp_path / "quant_info.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"Conv\.weight has 0\.5 bits; allowed: 1 to 32"):
        read_quant_info(tmp_path / "quant_info.json", b0.placement, channels(b0))


POINTS = [Point(0, False, 90.0, 0.5), Point(1, False, 91.0, 0.4), Point(2, False, 89.0, 0.4),
          Point(3, False, 85.0, 0.3), Point(4, False, 86.0, 0.29), Point(5, False, 86.0, 0.29),
          Point(5, True, 91.0, 0.31)]


def test_the_points_that_no_other_one_beats_are_kept(tmp_path):
    assert front(POINTS) == [POINTS[4], POINTS[6]]
    (tmp_path / "weights").mkdir()
    for point in POINTS:
        (tmp_path / point.file).write_bytes(b"")
    write_points(tmp_path, POINTS[:6])
    assert read_points(tmp_path) == [POINTS[4], POINTS[1]]
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["ckpt_metric_0.290000.pth",
                                                                              "ckpt_metric_0.400000.pth"]


def test_every_row_of_a_continued_run_has_its_file(tmp_path):
    points = [Point(0, False, 90.0, 0.5), Point(1, False, 88.0, 0.4), Point(2, False, 86.0, 0.3)]
    (tmp_path / "weights").mkdir()
    for number, point in enumerate(points, start=1):
        (tmp_path / point.file).write_bytes(b"")
        write_points(tmp_path, points[:number])
    write_points(tmp_path, [*points, Point(3, True, 91.0, 0.3)])  # the run ends: its average beats them all
    assert len(read_points(tmp_path)) == 1
    more = Point(3, False, 87.0, 0.29)
    (tmp_path / more.file).write_bytes(b"")
    write_points(tmp_path, [*points, more])  # and is continued
    assert [point.top1 for point in read_points(tmp_path)] == [87, 88, 90]
    assert all((tmp_path / point.file).is_file() for point in read_points(tmp_path))
    assert chosen_file(tmp_path, "accuracy>=88").is_file()


def test_points_on_the_front_have_files_of_their_own():
    near = [Point(0, False, 70.0, 0.3000001), Point(1, False, 71.0, 0.3000004), Point(2, False, 72.0, 0.3000006)]
    for points in (near, near[::-1]):
        assert [point.file for point in front(points)] == [near[1].file, near[2].file]
        assert [point.top1 for point in front(points)] == [71, 72]


def test_a_rule_picks_a_point(tmp_path):
    assert pick(POINTS, "accuracy>=86") == POINTS[4]
    assert pick(POINTS, "accuracy >= 89 %") == POINTS[6]
    assert pick(POINTS, "score<=.4") == POINTS[6]
    assert pick(POINTS, "score<=0.30") == POINTS[4]
    for rule, message in (("accuracy>=92", "nearest one has an accuracy of 91.00 at a score of 0.4000"),
                          ("score<=0.2", "nearest one has an accuracy of 86.00 at a score of 0.2900"),
                          ("score>=0.2", "allowed: accuracy>=<percent>, score<=<number>"), ("best", "allowed:")):
        with pytest.raises(UserError, match=message):
            pick(POINTS, rule)
    write_points(tmp_path, POINTS)
    assert chosen_file(tmp_path, "score<=.3") == tmp_path / "weights/ckpt_metric_0.290000.pth"
    assert chosen_file(tmp_path) == tmp_path / "adj.pth"
    with pytest.raises(UserError, match="is no folder"):
        chosen_file(tmp_path / "points.csv", "score<=.3")
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is damaged"):
        read_points(tmp_path)


@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_landing_lowers_the_nearest_channels_and_no_more(granularity):
    engine = granularity == "layer"
    network = AdjustableNetwork(lower(subnet("onnxw_tiny-053412-000000", pick=max)),
                                QuantizerSettings(bits_trainable=True, engine=engine))
    quantizers, generator = network.learned_quantizers(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for q in quantizers:
            q.bits_scale.copy_(torch.rand(q.bits_scale.shape, generator=generator) * 0.8 + 0.2)

    def score():
        return network.score(0.7, "own").item()

    before, target = score(), score() - 0.02
    bits = torch.cat([q.bits() for q in quantizers])
    slack = torch.cat([q.slack().expand(len(q.low)) for q in quantizers])
    lowered = land(quantizers, score, target)
    after = torch.cat([q.bits() for q in quantizers])
    changed = after < bits
    assert lowered > 0
    assert target - (0.02 if engine else 0.001) < score() <= target < before
    assert (bits - after)[changed].unique().tolist() == [4.0 if engine else 1.0]
    assert slack[changed].max() <= slack[~changed].min()
    assert land(quantizers, score, target) == 0  # it is there
    land(quantizers, score, 0.0)  # which nothing reaches: everything goes down by a step
    lowest = torch.cat([q.bits() for q in quantizers])
    assert torch.equal(lowest, torch.full_like(after, 4) if engine else (after - 1).clamp(min=2))


def test_quantisers_of_engines_have_zero_and_symmetric_codes():
    x = torch.linspace(0.5, 3, 100).view(1, 2, 50)
    tensor = AdjustableQuantizer(torch.zeros(1), torch.zeros(1), None, bits_trainable=False, engine=True)
    tensor.set_range(*channel_range(x, 1))
    assert tensor(torch.zeros(1)).item() == 0
    torch.testing.assert_close(tensor(x), torch.quantize_per_tensor(x, 3 / 255, 0, torch.quint8).dequantize())
    weight = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    for bits in (4, 8):
        quantizer = AdjustableQuantizer(*channel_range(weight, 0), 0, engine=True)
        with torch.no_grad():
            quantizer.bits_scale.fill_(bits / 8)
        scales = weight.abs().amax(1) / (2 ** (bits - 1) - 1)
        expected = torch.quantize_per_channel(weight, scales, torch.zeros(3), 0, torch.qint8).dequantize()
        torch.testing.assert_close(quantizer(weight), expected, rtol=1e-5, atol=1e-5)


def test_the_bits_of_a_network_for_engines_are_read_back(tmp_path):
    graph = lower(subnet("onnxw_tiny-053412-000000"))
    network = AdjustableNetwork(graph, QuantizerSettings(engine=True, weight_bits=4))
    write_quant_info(tmp_path / "bits.json", network.published, *network.bits())
    weights, acts = read_quant_info(tmp_path / "bits.json", Placement(graph),
                                    {name: shape[0] for name, shape in network.shapes.items()})
    assert {bits for values in weights.values() for bits in values.tolist()} == {4.0}
    assert {bits for values in acts.values() for bits in values.tolist()} == {8.0}
