"""The score of networks against the published figures, and its rules against plain sums over pairs."""

import pytest
import torch
from processes import run_script

from modules.adjustable.scoring.counting import count_operations
from modules.adjustable.scoring.score import NetworkCost, part_score, total
from modules.deploy.graph.untrained import untrained_graph
from modules.search_space.networks import get_available_networks
from modules.search_space.reference import read_network


def cost_of(name: str, classes: int = 1000, **options) -> NetworkCost:
    network = read_network(name)
    return NetworkCost(untrained_graph(network.space, network.subnet, int8=False, num_classes=classes), **options)


@pytest.fixture(scope="module")
def b0():
    return cost_of("efficientnet_b0")


def score(cost, weight, act, swish=8, bias=8, **rule):
    return part_score(total(cost.parts(cost.uniform(weight, act, swish, bias), **rule)), rule.get("metric", ""))


@pytest.mark.parametrize(("bits", "published"), [(32, 1.410879), (8, 0.359725), (4, 0.184532), (3, 0.140734)])
def test_efficientnet_b0_scores_as_the_published_code_says(b0, bits, published):
    assert score(b0, bits, bits) == pytest.approx(published, abs=6e-7)
    assert score(b0, bits, bits, pairing="tile") == pytest.approx(published, abs=6e-7)


def test_counts_of_efficientnet_b0_are_those_of_the_published_file(b0):
    *layers, biases, swish = b0.parts(b0.uniform(8, 8, 8, 8))
    assert sum(layer.parameters for layer in layers) == 5_247_813
    assert sum(layer.operations for layer in layers) == 2 * 385_814_752
    assert (biases.parameters, swish.operations) == (21_008, 3 * 6_157_916)
    assert {layer.name: layer.parameters for layer in layers if layer.name.startswith("expanded_conv_15")} == {
        "expanded_conv_15/expand": 221184, "expanded_conv_15/dws": 10368, "expanded_conv_15/se_1": 55344,
        "expanded_conv_15/se_2": 56448, "expanded_conv_15/project": 368640}


@pytest.mark.parametrize(("bits", "published"), [(32, 1.4491), (16, 0.8936), (8, 0.6159)])
def test_efficientnet_b0_by_the_rules_of_the_challenge(b0, bits, published):
    assert score(b0, bits, bits, bits, bits, metric="official") == pytest.approx(published, abs=6e-5)


def test_counts_by_the_rules_of_the_challenge(b0):
    counts = count_operations(b0.graph, b0.shapes)
    assert sum(count.weights + count.biases for count in counts) == 5_267_540
    assert sum(count.multiplications for count in counts) == 406_623_188
    assert sum(count.additions for count in counts) == 395_601_308
    # The submission, of 2.94 bits a weight and about 5.5 a multiplication, was ranked with 0.4678.
    assert score(b0, 2.94, 5.5, 5.5, 2.94, metric="official") == pytest.approx(0.4678, abs=1e-3)
    norm = cost_of("mobilenet_v2:1.4")
    whole = total(norm.parts(norm.uniform(32, 32, 32, 32), metric="official"))
    assert (whole.parameters, whole.operations) == (6_084_808, pytest.approx(1173.5e6, rel=1e-4))


def test_bits_of_products_are_those_of_all_pairs_or_of_the_published_tiles():
    cost, generator = cost_of("resnet8", 10), torch.Generator().manual_seed(0)
    widths = cost.uniform(8, 8, 8, 8)
    for part in (widths.weights, widths.acts):
        for name in part:
            part[name] = torch.randint(2, 9, (len(part[name]),), generator=generator).float()
    conv = next(node for node in cost.graph.nodes if node.output == "stage1.0.conv2")
    weight, inputs = widths.weights[conv.output], widths.acts[conv.inputs[0]]
    macs = conv.weight.size * 16 * 16
    for rule, expected in (
            ({}, sum(max(w, a) for w in weight for a in inputs) / len(weight) / len(inputs)),
            ({"pairing": "tile"}, sum(max(weight[k % len(weight)], inputs[k % len(inputs)])
                                      for k in range(len(weight) * len(inputs))) / len(weight) / len(inputs))):
        part = next(p for p in cost.parts(widths, **rule) if p.name == "stage1.0/conv2")
        assert part.work == pytest.approx(2 * macs * float(expected) / 32, rel=1e-5)
    part = next(p for p in cost.parts(widths, metric="bitops") if p.name == "stage1.0/conv2")
    pairs = float(sum(w * a for w in weight for a in inputs))
    assert part.work == pytest.approx(macs * pairs / len(weight) / len(inputs), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in get_available_networks() if "latency" not in name])
def test_every_layer_reads_bits_and_every_tensor_has_one_name(name):
    cost = cost_of(name, 10)
    placement = cost.placement
    assert len(placement.acts) == len(placement.learned)
    assert len({place.scope for place in cost.places.values()}) == len(cost.places)
    parts = cost.parts(cost.uniform(4, 8, 8, 8))
    assert {part.weight_bits for part in parts} == {4, None}
    assert {part.input_bits for part in parts} == {8, None}


def test_script(tmp_path):
    def run(*options):
        return run_script("adj_quant/score.py", *options)

    done = run("--weight_bits", 4, "--act_bits", 4, "--output", tmp_path / "score.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("repository score 0.184532")
    rows = (tmp_path / "score.csv").read_text().splitlines()
    assert rows[0].split(",")[0] == "layer"
    assert float(rows[-1].split(",")[-1]) == pytest.approx(sum(float(r.split(",")[-1]) for r in rows[1:-1]), abs=1e-4)
    for options, message in ((("--weight_bits", 0), "above 0"), (("--metric", "own"), "allowed: repository")):
        done = run(*options)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert message in done.stderr
