"""QE-Score, ZiCo, aggregation of ranks and rank correlations against draws, formulas and published figures."""
import math

import numpy as np
import pytest
import torch

from modules.block_kd.lut.proxy_rank import COLUMNS, draw_substages, rankings, score_substages
from modules.latency import get_platform
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.search_space.networks.structure import Structure
from modules.search_space.reference import read_network
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.zero_shot.aggregate import rank_aggregate, rank_correlations
from modules.zero_shot.entropy import qe_score, quantized_deviation
from modules.zero_shot.network import structure_net
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.proxies import get_proxy
from modules.zero_shot.scoring import scores

TABLES = REPOSITORY / "data" / "block_lut"


@pytest.mark.parametrize(("sigma", "bits"), [(4.0, 3), (5.0, 4), (5.0, 8), (0.3, 2), (100.0, 1)])
def test_deviation_of_quantised_draws(sigma, bits):
    draws = np.random.default_rng(0).normal(0, sigma, 2_000_000)
    high = 2 ** (bits - 1)
    assert quantized_deviation(sigma, bits) == pytest.approx(np.clip(np.round(draws), -high, high).std(), rel=3e-3)
    # without clipping, rounding adds 1/12 to the variance (Sheppard's correction)
    if bits == 8:
        assert quantized_deviation(sigma, bits) == pytest.approx(math.sqrt(sigma**2 + 1 / 12), rel=1e-6)


def test_qe_score_of_a_plain_network_is_its_formula():
    text = "SuperConvK3BNRELU(3,8,2,1)SuperConvK5BNRELU(8,12,1,1)SuperConvK1BNRELU(12,20,2,1)"
    spec = structure_net(Structure.parse(text), 16, 5)
    gain = math.log(quantized_deviation(5, 4) * quantized_deviation(4, 3) / 5)
    first = 2 * gain + 0.5 * math.log(27) + 0.5 * math.log(8 * 25)
    last = first + gain + 0.5 * math.log(12)
    expected = 1 * (first + math.log(12)) + 6 * (last + math.log(20))
    assert qe_score(spec, weight_bits=3, activation_bits=4) == pytest.approx(expected, rel=1e-12)
    assert scores(spec, "QE", 4, 2, 0) == [qe_score(spec)] * 2
    values = [qe_score(spec, bits, bits) for bits in (2, 3, 4, 6, 8)]
    assert values == sorted(values)
    assert values[-1] - values[-2] < 1e-3 * values[-1]


def test_zico_is_its_formula():
    spec = structure_net(Structure.parse("SuperConvK3BNRELU(3,8,1,1)SuperConvK5BNRELU(8,12,2,1)"), 16, 5)
    torch.manual_seed(2)
    net = QNetwork(spec)
    ours = get_proxy("ZiCo")(net, 4, torch.Generator().manual_seed(5))
    generator, gradients = torch.Generator().manual_seed(5), []
    names = [name for name, p in net.named_parameters() if p.ndim > 1]
    assert len(names) == 3
    for _ in range(2):
        net.zero_grad()
        logits = net(torch.randn(4, 3, 16, 16, generator=generator))
        labels = torch.randint(5, (4,), generator=generator)
        (logits.logsumexp(1) - logits[torch.arange(4), labels]).mean().backward()
        gradients.append([net.get_parameter(name).grad.double().numpy().copy() for name in names])
    expected = 0.0
    for a, b in zip(*gradients, strict=True):
        deviation = np.abs(a - b) / 2  # of two values
        keep = deviation > 0
        expected += math.log((((np.abs(a) + np.abs(b)) / 2)[keep] / deviation[keep]).sum())
    assert ours == pytest.approx(expected, rel=1e-2)  # the smallest deviations are float32 noise


def test_sizes_and_latency_as_scores():
    network = read_network("resnet8_r16")
    spec = resolve(network.space, network.subnet, 10)
    assert scores(spec, "Latency:onnx_lut", 2, 1, 0) == [get_platform("onnx_lut").predict_subnet(spec)]
    weights = sum(p.numel() for p in QNetwork(spec).parameters())
    assert scores(spec, "Params", 2, 1, 0) == [weights / 1e6]
    with pytest.raises(UserError, match="'abacus'"):
        scores(spec, "Latency:abacus", 2, 1, 0)


def test_aggregate_of_ranks():
    a, b = np.array([1.0, 5.0, 3.0, 2.0]), np.array([10.0, 40.0, 20.0, 30.0])
    expected = [math.log(1 / 4) * 2, 0.0, math.log(3 / 4) + math.log(2 / 4), math.log(2 / 4) + math.log(3 / 4)]
    np.testing.assert_allclose(rank_aggregate(np.stack([a, b], 1)), expected)
    np.testing.assert_allclose(rank_aggregate(np.stack([np.exp(a), b**3], 1)), expected)  # ranks alone count
    tau, rho = rank_correlations(a, b)
    assert tau == pytest.approx((5 - 1) / 6)  # of six pairs one, (2, 3), disagrees
    assert rho == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert all(map(math.isnan, rank_correlations(a, np.ones(4))))


@pytest.mark.slow
def test_sizes_rank_the_published_tables_as_measured_before():
    """Mean Spearman over the stages of onnxw with minus the loss (facts, all rows and resolutions: .46, .53, .55 across
    block types; .42, .41, .41 within a table)."""
    rows = draw_substages(TABLES, "onnxw", 160, 40, 0)
    found = rankings(rows, {name: score_substages(rows, name, 2, 0) for name in COLUMNS})
    for name, across, within in zip(COLUMNS, (0.46, 0.53, 0.55), (0.42, 0.41, 0.41), strict=True):
        mine = [r for r in found if r.proxy == name]
        assert len(mine) == 6
        assert np.mean([r.across[1] for r in mine]) == pytest.approx(across, abs=0.05)
        assert np.mean([r.within[1] for r in mine]) == pytest.approx(within, abs=0.05)


def test_tables_that_a_score_is_ranked_by(tmp_path):
    rows = draw_substages(TABLES, "onnxw_tiny", 64, 2, 1)
    assert rows == draw_substages(TABLES, "onnxw_tiny", 64, 2, 1)
    assert len({row.stage for row in rows}) == 6
    # a score that is minus the loss ranks perfectly; a constant one not at all
    loss = np.array([row.loss for row in rows])
    perfect, constant = rankings(rows, {"good": -loss, "same": np.ones(len(rows))})[:2]
    assert perfect.across == pytest.approx((1, 1))
    assert all(map(math.isnan, constant.across))
    for row in rows[::40]:
        assert math.isfinite(score_substages([row], "NASWOT", 2, 0)[0])
        assert math.isfinite(score_substages([row], "ZiCo", 2, 0)[0])
    with pytest.raises(UserError, match="all of no score"):
        rankings(rows, {"Params": loss}, aggregate="all")
    with pytest.raises(UserError, match="no row for resolution 500"):
        draw_substages(TABLES, "onnxw_tiny", 500, 2, 1)
    (tmp_path / "onnxw_tiny").mkdir()
    table = tmp_path / "onnxw_tiny" / "stage1_0_0.csv"
    for line, words in (("k3#w16", "line 1: 1 fields"), ("k3#w16#e1,1x16xAxA,1,1,1,1", "line 1: .*1x16xAxA"),
                        ("k3#w16#e1,1x16x32x32,1,nan,1,1", "line 1: .*finite")):
        table.write_text(f"{line}\n")
        with pytest.raises(UserError, match=words):
            draw_substages(tmp_path, "onnxw_tiny", 64, 2, 1)


def test_syncflow_sends_all_channels_through_a_stage():
    rows = draw_substages(TABLES, "onnxw_tiny", 48, 1, 1)
    spec = next(r.spec for r in rows if r.stage == "stage3" and r.spec.blocks[0][1].args.kind == "ResNet")
    net, cin = QNetwork(plain_view(spec)), spec.blocks[0][1].args.cin
    assert cin > 3
    found = get_proxy("Syncflow")(net, 1, torch.Generator().manual_seed(0))  # it leaves its weights in the network
    net(torch.ones(1, cin, spec.resolution, spec.resolution, dtype=torch.float64)).sum().backward()
    weights = [m.weight for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert found == pytest.approx(-sum((w * w.grad).abs().flatten(1).sum(1).mean().item() for w in weights))


@pytest.mark.parametrize("proxy", ["Zen", "NASWOT", "GradNorm", "Syncflow", "NTK", "RN", "ZiCo", "TE-NAS"])
def test_a_score_is_computed_where_its_network_is(proxy):
    """On meta, a device without values, a tensor that is elsewhere is refused before the one number is read."""
    text = "SuperConvK3BNRELU(3,8,1,1)SuperResK1K3K1(8,16,2,8,1)SuperConvK1BNRELU(16,24,1,1)"
    net = QNetwork(plain_view(structure_net(Structure.parse(text), 16, 10))).to("meta")
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):
        get_proxy(proxy)(net, 4, torch.Generator().manual_seed(0))


def test_a_single_repeat_has_no_interval(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "zen_nas"))
    from score import summary

    assert summary(np.array([1.5])) == "1.5, 1 repeat"
    assert summary(np.array([1.0, 3.0])) == "2 +- 1.96 (95%), deviation 1.41, 2 repeats"
