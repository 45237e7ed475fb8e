"""Fitted latency models: closed forms, recovery of known costs, honest intervals, files."""
import dataclasses

import numpy as np
import pytest
from latency_nets import QUICK, nets, random_blocks, true_ms

from modules.latency.fitted.block_model import BlockModel, FitSettings
from modules.latency.fitted.domain import BETWEEN, FAMILIAR, OUTSIDE
from modules.latency.fitted.features import BLOCK_COLUMNS, KERNEL_KINDS, block_features, block_kernels
from modules.latency.fitted.kernel_model import fit_kernel_model
from modules.latency.fitted.platform import ModelPlatform
from modules.latency.fitted.trees import Trees
from modules.latency.prediction import NORMAL_90
from modules.latency.published.tables import make_samples
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.spec import BlockArgs
from modules.utils.errors import UserError


def test_kernels_of_a_block_by_hand():
    block = BlockArgs("MobileNetV3Res", 16, 24, 5, 4, 2, "hswish")
    kernels = block_kernels([block], [(28, 28)])
    found = sorted((KERNEL_KINDS[row[0]], *map(int, row[1:])) for row in kernels.rows[kernels.kernel])
    # kind, input and output size, channels, stride, multiply-accumulates, weights; hidden 64, squeeze 16
    assert found == sorted([
        ("conv1", 28, 28, 28, 28, 16, 64, 1, 28 * 28 * 16 * 64, 16 * 64),
        ("hswish", 28, 28, 28, 28, 64, 64, 1, 0, 0),
        ("dw5", 28, 28, 14, 14, 64, 64, 2, 14 * 14 * 64 * 25, 64 * 25),
        ("hswish", 14, 14, 14, 14, 64, 64, 1, 0, 0),
        ("pool", 14, 14, 1, 1, 64, 64, 1, 0, 0),
        ("gate", 1, 1, 1, 1, 64, 16, 1, 64 * 16, 64 * 16), ("relu", 1, 1, 1, 1, 16, 16, 1, 0, 0),
        ("gate", 1, 1, 1, 1, 16, 64, 1, 64 * 16, 64 * 16), ("hard_sigmoid", 1, 1, 1, 1, 64, 64, 1, 0, 0),
        ("mul", 14, 14, 14, 14, 64, 64, 1, 0, 0),
        ("conv1", 14, 14, 14, 14, 64, 24, 1, 14 * 14 * 64 * 24, 64 * 24),
        ("conv1", 28, 28, 14, 14, 16, 24, 2, 14 * 14 * 16 * 24, 16 * 24),
        ("add", 14, 14, 14, 14, 24, 24, 1, 0, 0)])
    activations = kernels.terms()[[KERNEL_KINDS[k] == "add" for k in kernels.kind]][0, 2]
    assert activations == pytest.approx(3 * 14 * 14 * 24 / 1e6)  # two inputs, one output


def test_a_stack_is_several_depthwise_kernels():
    kernels = block_kernels([BlockArgs("MobileNetV2K3Res", 16, 16, 7, 6, 2, "relu6")], [(15, 15)])
    rows = [tuple(row) for row in kernels.rows[kernels.kernel] if KERNEL_KINDS[row[0]].startswith("dw")]
    assert [(row[1], row[3], row[7]) for row in rows] == [(15, 8, 2), (8, 8, 1), (8, 8, 1)]


def test_features_are_numbers_in_the_columns_that_are_named():
    blocks, hws = random_blocks(30)
    kernels = block_kernels(blocks, hws)
    assert kernels.features().shape == (len(kernels.rows), 12)
    features = block_features(blocks, hws, kernels)
    assert features.shape == (30, len(BLOCK_COLUMNS) + len(KERNEL_KINDS))
    assert np.isfinite(features).all()
    columns = dict(zip(BLOCK_COLUMNS, features.T, strict=False))
    assert list(columns["cin"]) == [block.cin for block in blocks]
    assert list(columns["out_hw"]) == [(-(-hw[0] // b.stride)) ** 2 for b, hw in zip(blocks, hws, strict=True)]
    np.testing.assert_allclose(columns["macs"], kernels.sum(kernels.terms()[:, 1]))


def test_kernels_have_the_multiply_accumulates_of_the_network():
    for spec in nets(3):
        hw, blocks, hws = (spec.resolution, spec.resolution), [], []
        for _, block in spec.blocks:
            blocks.append(block.args)
            hws.append(hw)
            stride = block.args.stride
            hw = (1, 1) if block.args.kind == "FeatureMix" else tuple(-(-s // stride) for s in hw)
        kernels = block_kernels(blocks, hws)
        assert kernels.sum(kernels.terms()[:, 1]).sum() == pytest.approx(count_net_flops_and_params(spec)[0])


def test_the_roofline_finds_known_costs_and_prices_unseen_types():
    blocks, hws = random_blocks(300)
    ms = true_ms(blocks, hws)
    model = fit_kernel_model(block_kernels(blocks, hws), ms)
    others, sizes = random_blocks(200, 1, ("ResNetSE", "MobileNetV2", "FusedMBConvSERes"))
    others = [dataclasses.replace(b, act="relu") for b in others]
    error = np.abs(model.predict(block_kernels(others, sizes)) / true_ms(others, sizes) - 1)
    # Exact, except for a difference that no fitted block shows: every gate is read and multiplied once.
    assert error.mean() < 0.01
    assert error.max() < 0.06


def test_trees_over_kernels_carry_over_to_a_type_that_was_not_fitted():
    blocks, hws = random_blocks(1200, kinds=("MobileNetV2Res", "ResNet", "FusedMBConvRes"))
    others, sizes = random_blocks(300, 1, ("MobileNetV2",))
    ms, wanted, errors = true_ms(blocks, hws, bend=0.2), true_ms(others, sizes, bend=0.2), []
    for rounds in (0, 100):
        model = fit_kernel_model(block_kernels(blocks, hws), ms, rounds)
        errors.append(np.abs(model.predict(block_kernels(others, sizes)) / wanted - 1).mean())
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.055


def test_intervals_cover_what_they_promise_and_widen_away_from_the_fit():
    blocks, hws = random_blocks(1600)
    rng = np.random.default_rng(5)
    # Errors of two very different sizes, so that one width for all would cover, but not within each type.
    noise = np.where([b.kind == "ResNet" for b in blocks], 0.15, 0.02)
    ms = true_ms(blocks, hws, 0.2) * np.exp(noise * rng.standard_normal(len(blocks)))
    samples = make_samples(dict(zip(zip(blocks, hws, strict=True), ms, strict=True)))
    fitted, new = samples.take(np.arange(800)), samples.take(np.arange(800, 1600))
    model = BlockModel.fit(fitted.blocks, fitted.hws, fitted.ms, settings=dataclasses.replace(QUICK, folds=4))
    predicted, deviation, extrapolated = model.predict(new.blocks, new.hws)
    inside = np.abs(np.log(new.ms / predicted)) <= NORMAL_90 * deviation
    assert 0.85 <= inside.mean() <= 0.95
    for kind in ("ResNet", "MobileNetV2Res"):
        assert 0.8 <= inside[[b.kind == kind for b in new.blocks]].mean() <= 0.99
    assert not extrapolated.any()
    _, away, beyond = model.predict(new.blocks, [(h + 100, w + 100) for h, w in new.hws])
    assert beyond.all()
    assert away.mean() > 2 * deviation.mean()
    block = BlockArgs("MobileNetV2Res", 32, 32, 3, 4, 1, "relu6")
    assert model.predict([dataclasses.replace(block, kind="MobileNetV2")], [(28, 28)])[2][0]


def test_a_broken_measurement_does_not_pull():
    blocks, hws = random_blocks(800)
    ms = true_ms(blocks, hws, 0.2)
    broken = ms.copy()
    broken[::40] *= 20
    settings = dataclasses.replace(QUICK, loss="l1", huber=0.2, folds=0)
    fits = [BlockModel.fit(blocks, hws, values, settings=settings).predict(blocks, hws)[0] for values in (ms, broken)]
    rest = np.arange(len(ms)) % 40 != 0
    assert np.mean(np.abs(fits[1] / ms - 1)[rest]) < 0.03 + np.mean(np.abs(fits[0] / ms - 1)[rest])


def test_levels_of_the_domain():
    blocks, hws = random_blocks(400)
    domain = BlockModel.fit(blocks, hws, true_ms(blocks, hws),
                            settings=FitSettings(kernel_rounds=0, block_rounds=0, folds=0)).domain
    block = BlockArgs("ResNet", 32, 32, 3, 1.0, 1, "relu")
    changes = ({}, {"cin": 136}, {"cout": 200}, {"kernel": 7}, {"act": "hswish"}, {"kind": "ResNetSE"})
    assert [int(domain.levels([dataclasses.replace(block, **c)], [(28, 28)])[0]) for c in changes] == [
        FAMILIAR, *[OUTSIDE] * 5]
    levels = [int(domain.levels([block], [(s, s)])[0]) for s in (14, 16, 57, 6, 60)]
    assert levels == [FAMILIAR, BETWEEN, BETWEEN, OUTSIDE, OUTSIDE]


def test_a_model_survives_its_file_and_the_file_holds_no_code(tmp_path):
    blocks, hws = random_blocks(300)
    model = BlockModel.fit(blocks, hws, true_ms(blocks, hws, 0.2), settings=QUICK)
    model.save(tmp_path / "m.npz")
    for a, b in zip(model.predict(blocks, hws), BlockModel.load(tmp_path / "m.npz").predict(blocks, hws), strict=True):
        np.testing.assert_array_equal(a, b)
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} <= {"f", "u"}
    again = BlockModel.fit(blocks, hws, true_ms(blocks, hws, 0.2), settings=QUICK)
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "m.npz").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"half a file", b"PK\x03\x04 broken"])
def test_a_bad_model_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.npz"):
        BlockModel.load(tmp_path / "m.npz")


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_latencies_that_are_none_are_refused(bad):
    blocks, hws = random_blocks(20)
    with pytest.raises(UserError, match="above 0"):
        BlockModel.fit(blocks, hws, [bad, *[1.0] * 19])
    with pytest.raises(UserError, match="at least 10"):
        BlockModel.fit(blocks[:9], hws[:9], [1.0] * 9)


def test_a_fitted_platform_is_a_model_and_nothing_else():
    blocks, hws = random_blocks(200)
    platform = ModelPlatform(BlockModel.fit(blocks, hws, true_ms(blocks, hws), settings=QUICK))
    prediction = platform.predict_blocks(blocks, hws)
    assert np.abs(prediction.ms / true_ms(blocks, hws) - 1).mean() < 0.05
    assert (prediction.std > 0).all()


def test_trees_of_another_text_are_refused():
    with pytest.raises(UserError, match=r"^m\.npz, trees: LightGBM cannot read it: ."):
        Trees("no trees", "m.npz, trees").predict(np.zeros((1, 2)))
