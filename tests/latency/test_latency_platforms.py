"""Platforms: sums of blocks, tables of exact values, nn-Meter's predictors, and the needs of every superspace."""
import json
import sys

import numpy as np
import onnx
import pytest
from latency_nets import SPACE, SUBNETS, nets
from onnx import numpy_helper
from processes import run_script

from modules.latency import LatencyPredictor, get_available_platforms, get_platform
from modules.latency.block_sums import BlockSums
from modules.latency.keys import parse_key
from modules.latency.nn_meter_ops import nn_meter_graph
from modules.latency.onnxruntime_int8 import OnnxRuntimeInt8
from modules.latency.platform import this_machine, weight_bits
from modules.latency.prediction import NORMAL_90, Prediction, join_predictions
from modules.latency.table import TablePlatform, read_table
from modules.modeling.complexity import blocks_of
from modules.modeling.net_spec import resolve
from modules.modeling.spec import BlockArgs
from modules.search_space.superspace import get_available_superspaces, get_superspace
from modules.utils.errors import UserError

# ---------------------------------------------------------------- sums of blocks

class Known(BlockSums):
    """Blocks of known latency and error; those of stride 2 extrapolate."""

    correlation = 0.25

    def __init__(self):
        super().__init__()
        self.asked = []

    def price_blocks(self, blocks, hws):
        self.asked += list(zip(blocks, hws, strict=True))
        ms = np.array([block.cin * hw[0] / 1000 for block, hw in zip(blocks, hws, strict=True)])
        return Prediction(ms, ms / 10, np.array([block.stride == 2 for block in blocks]))


def test_subnets_are_sums_with_correlated_errors():
    spec, platform = nets(1)[0], Known()
    hw, ms = spec.resolution, []
    for _, block in spec.blocks:
        ms.append(block.args.cin * hw / 1000)
        hw = 1 if block.args.kind == "FeatureMix" else -(-hw // block.args.stride)
    prediction, ms = platform.predict_subnets([spec]), np.array(ms)
    assert prediction.ms[0] == pytest.approx(ms.sum())
    # Var(sum) = sum of variances + correlation * sum over pairs of the products of standard deviations.
    covariance = 0.01 * np.outer(ms, ms) * np.where(np.eye(len(ms)), 1, 0.25)
    assert prediction.std[0] == pytest.approx(np.sqrt(covariance.sum()))
    assert prediction.extrapolated[0]
    assert prediction.text(0).startswith("~")
    assert prediction.upper(0.95)[0] == pytest.approx(prediction.ms[0] + NORMAL_90 * prediction.std[0])


def test_each_block_is_priced_once_however_it_is_asked_for():
    specs, platform = nets(30), Known()
    together = platform.predict_subnets(specs)
    assert len(platform.asked) == len(set(platform.asked))
    count = len(platform.asked)
    apart = join_predictions([platform.predict_subnets([spec]) for spec in specs])
    for name in ("ms", "std", "extrapolated"):
        np.testing.assert_allclose(getattr(together, name), getattr(apart, name))
    assert len(platform.asked) == count
    one_by_one = Known()
    np.testing.assert_allclose([one_by_one.predict_subnet(spec) for spec in specs], together.ms)
    assert len(one_by_one.asked) == count
    assert len(platform.predict_subnets([]).ms) == 0


# ---------------------------------------------------------------- tables and nn-Meter

def test_keys_of_nn_meters_tables():
    block = BlockArgs("MobileNetV2Res", 112, 128, 5, 4, 1, "relu6")
    assert parse_key("MobileNetV2ResBlock_14_112_128_5_4_1_relu6") == (block, (14, 14))
    assert parse_key("ResNetBlock_56_32_48_3_0.5_2_relu")[0] == BlockArgs("ResNet", 32, 48, 3, 0.5, 2, "relu")
    for key, name in (("FirstConvBlock_224_3_16_3_None_2_relu", "first_conv"),
                      ("FeatureMixBlock_7_1280_1920_1_None_1_hswish", "feature_mix"),
                      ("LogitsBlock_1_1920_1000_0_None_0_relu", "logits")):
        wanted = {stage: blocks[0].args for stage, blocks in resolve(SPACE, SUBNETS.extreme(min)).stages}[name]
        assert parse_key(key)[0] == wanted
    assert parse_key("MobileNetV1DualBlock_7_64_64_3_0_1_relu")[0].expand is None
    for bad in ("ResNetBlock_56_32", "ResNetBlock_56_32_48_3_x_2_relu", "NoSuchBlock_56_32_48_3_1_2_relu",
                "ResNetBlock_-56_32_48_3_1_2_relu", "ResNetBlock_56_0_48_3_1_2_relu",
                "ResNetBlock_56_32_48_3_nan_2_relu", "ResNetBlock_56_32_48_3_-1_2_relu"):
        with pytest.raises(UserError, match=bad):
            parse_key(bad)


def test_a_table_wins_and_the_platform_fills_in(tmp_path):
    block = BlockArgs("MobileNetV2Res", 112, 128, 5, 4, 1, "relu6")
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"MobileNetV2ResBlock_14_112_128_5_4_1_relu6": 1.25}))
    platform = TablePlatform(Known(), read_table(path))
    prediction = platform.predict_blocks([block, block], [(14, 14), (28, 28)])
    assert list(prediction.ms) == [1.25, pytest.approx(112 * 28 / 1000)]
    assert list(prediction.std) == [0, pytest.approx(11.2 * 28 / 1000)]
    same = LatencyPredictor("onnx_lut", str(path))
    assert same.predict_block("MobileNetV2Res", 14, 112, 128, 5, 4.0, 1, "relu6") == 1.25
    assert same.predict_block("MobileNetV2Res", 28, 112, 128, 5, 4, 1, "relu6") == LatencyPredictor(
        "onnx_lut").predict_block("MobileNetV2Res", 28, 112, 128, 5, 4, 1, "relu6")


def test_a_table_over_a_platform_that_predicts_one_block_at_a_time():
    class Plain:
        def predict_block(self, block, hw):
            return block.cin * hw[0] / 1000

    (spec,), (first, *_) = nets(1), blocks_of(nets(1)[0])
    table = TablePlatform(Plain(), {first: 50.0})
    prediction = table.predict_subnets([spec])
    wanted = 50 + sum(Plain().predict_block(*key) for key in blocks_of(spec)[1:])
    assert prediction.ms == pytest.approx([wanted])
    assert np.isnan(prediction.std).all()
    assert not hasattr(table, "measure_subnet")


@pytest.mark.parametrize(("content", "words"), [
    (None, "No such file"), ("{", "Expecting"), ("[]", "expected an object"), ("{}", "JSON object"),
    ('{"ResNetBlock_56_32_48_3_0.5_2_relu": -1}', "above 0"), ('{"ResNetBlock_56_32_48_3_0.5_2_relu": "1"}', "'1'"),
    ('{"Block_1": 1}', "Block_1")])
def test_a_bad_table_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(UserError, match=words) as error:
        read_table(tmp_path / "t.json")
    assert "t.json" in str(error.value)


def test_nn_meter_is_asked_for_only_when_named(monkeypatch):
    assert not any(name.startswith("nn_meter") for name in get_available_platforms())
    monkeypatch.setitem(sys.modules, "nn_meter", None)  # an import then fails, as without nn-Meter
    with pytest.raises(UserError, match=r"nn_meter:mine.*pip install nn-meter"):
        get_platform("nn_meter:mine")
    with pytest.raises(UserError, match=r"'abacus:1'.*onnx_lut.*nn_meter:NAME"):
        get_platform("abacus:1")


def test_nn_meters_graph_of_a_block():
    graph = nn_meter_graph(BlockArgs("ResNet", 16, 32, 3, 0.5, 2, "relu"), (28, 28))
    kinds = [node["attr"]["type"] for node in graph.values()]
    assert sorted(kinds) == sorted(["Placeholder", *["conv"] * 4, *["bn"] * 4, *["relu"] * 3, "add"])
    for name, node in graph.items():
        for source in node["inbounds"]:
            assert name in graph[source]["outbounds"]
    (add,) = [node for node in graph.values() if node["attr"]["type"] == "add"]
    assert add["attr"]["input_shape"] == [[1, 14, 14, 32]] * 2


REGISTERED = """
import json, pathlib, pickle, sys
import numpy as np, yaml
from sklearn.linear_model import LinearRegression
import nn_meter
home = pathlib.Path.home()
folder = home / "predictor"
folder.mkdir()
for name, size in (("conv-bn-relu", 7), ("dwconv-bn-relu", 7), ("addrelu", 3)):
    with open(folder / f"{name}.pkl", "wb") as file:  # every kernel of a kind takes 1 ms
        pickle.dump(LinearRegression().fit(np.eye(size), np.ones(size)), file)
rules = {f"BF_{a}_{b}": {"obey": True} for a, b in (
    ("conv", "bn"), ("dwconv", "bn"), ("bn", "relu"), ("conv", "relu"), ("dwconv", "relu"), ("add", "relu"))}
(folder / "fusion_rules.json").write_text(json.dumps({**rules, "MON": {"obey": 0}, "RT": {"obey": True}}))
nn_meter.list_latency_predictors()
listing = home / ".nn_meter" / "config" / "predictors.yaml"
listing.write_text(yaml.dump([{"name": "mine", "version": 1.0, "category": "cpu", "package_location": str(folder),
                               "kernel_predictors": ["conv-bn-relu", "dwconv-bn-relu", "addrelu"]}]))
from modules.latency import LatencyPredictor
print(LatencyPredictor("nn_meter:mine").predict_block("ResNet", 28, 16, 32, 3, 0.5, 2, "relu"))
platform = LatencyPredictor("nn_meter:mine")
print(platform.predict_block("MobileNetV2Res", 28, 16, 16, 3, 4, 1, "relu6"))
print(platform.predict_block("MobileNetV2Res", 14, 16, 16, 3, 4, 1, "relu6"))
for name, error in (("conv-bn-relu", "a bad\\nfeature"), ("", "")):
    class Broken:
        def predict(self, features):
            raise ValueError(error)
    platform.platform.predictor.kernel_predictors = {name: Broken()}
    try:
        platform.predict_block("MobileNetV2Res", 7, 16, 16, 3, 4, 1, "relu6")
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_predictor_registered_with_nn_meter(tmp_path):
    pytest.importorskip("nn_meter")
    done = run_script("-W", "ignore", "-c", REGISTERED, env={"HOME": str(tmp_path)})
    resnet, mobile, smaller, *errors = done.stdout.splitlines()
    assert float(resnet) == pytest.approx(5), done.stderr  # 4 convolutions and one addition with relu, 1 ms each
    # 2 pointwise and 1 depthwise convolution; a plain addition is not known: it moves 3 tensors of 16 channels, they
    # 2 of 16 and 4 of 64.
    for line in (mobile, smaller):
        assert float(line) == pytest.approx(3 * (1 + 3 * 16 / (2 * 16 + 4 * 64)))
    (warning,) = [line for line in done.stderr.splitlines() if "no predictor" in line]
    assert "kernel add" in warning
    failing, none = errors
    assert failing.startswith("UserError platform nn_meter:mine fails at block MobileNetV2Res_7_16_16_3_4_1_relu6: ")
    assert failing.endswith("ValueError: a bad")
    assert none.startswith("UserError platform nn_meter:mine has none of the kernels of block MobileNetV2Res_7_")


# ---------------------------------------------------------------- published platforms

@pytest.mark.parametrize(("saturate", "name"), [(True, "onnxruntime_w7a8"), (False, "onnxruntime_int8")])
def test_this_machine_has_weights_of_seven_bits_where_onnxruntime_lacks_exact_kernels_for_eight(
        saturate, name, monkeypatch):
    monkeypatch.setattr("modules.latency.platform.products_saturate", lambda: saturate)
    assert this_machine() == name
    assert weight_bits(name) == (7 if "w7" in name else 8)


def test_both_numbers_of_bits_share_the_cache_and_are_timed_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    block, timed = BlockArgs("MobileNetV2", 16, 16, 3, 4, 1, "relu6"), []

    def measure(self, content):
        timed.append(content)
        return float(len(timed))
    monkeypatch.setattr(OnnxRuntimeInt8, "_measure", measure)
    first, second = get_platform("onnxruntime_int8"), get_platform("onnxruntime_w7a8")
    assert [p.predict_block(block, (8, 8)) for p in (first, second, first)] == [1, 2, 1]
    first.cache.save()
    second.cache.save()
    assert first.cache.path == second.cache.path
    for content, top in zip(timed, (127, 63), strict=True):
        weights = [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer]
        assert max(abs(w.astype(int)).max() for w in weights if w.dtype == np.int8 and w.ndim == 4) == top
    assert get_platform("onnxruntime_w7a8").predict_block(block, (8, 8)) == 2
    assert len(timed) == 2


def test_platforms_need_no_torch():
    code = ("import sys, modules.latency, modules.latency.report, modules.latency.published.__main__\n"
            "import modules.latency.keys, modules.search_space.config\n"
            "assert modules.latency.get_platform('onnx_lut').predict_block(\n"
            "    modules.latency.keys.parse_key('ResNetBlock_56_32_48_3_0.5_2_relu')[0], (56, 56)) > 0\n"
            "print(sorted({'torch', 'nn_meter', 'matplotlib', 'tensorflow'} & set(sys.modules)))")
    done = run_script("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_superspace_has_a_platform_by_default():
    defaults = {name: get_superspace(name).default_platform for name in get_available_superspaces()}
    assert set(defaults.values()) <= set(get_available_platforms())
    assert all(platform == "tflite27_cpu_int8" for name, platform in defaults.items() if name.startswith("mobile"))
    assert (defaults["onnxw"], defaults["onnxw_tiny"]) == ("onnx_lut", "onnxruntime_int8")


def test_a_device_that_is_unknown_here_has_weights_of_eight_bits():
    assert weight_bits("board7") == 8
