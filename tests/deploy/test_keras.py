"""The Keras form of blocks and networks against torch, and TensorFlow's converter."""
import importlib.util
import sys

import numpy as np
import pytest
import torch
from deploy_nets import lively, subnet
from processes import run_script

from modules.deploy.to_keras.load import import_tensorflow
from modules.modeling.net_spec import NetSpec
from modules.modeling.network import QNetwork
from modules.modeling.restore import ModelRecord
from modules.modeling.spec import BlockArgs, build_block, get_available_blocks
from modules.modeling.supernet import Supernet
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.checkpoint import save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import write_manifest

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.skipif(not HAS_TENSORFLOW, reason="TensorFlow is not installed (requirements.txt)")
SMALLEST = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#24#40#56#96#128_e0#0.5#0#0#0#0#0#0_r32"


def block_network(kind: str, act: str) -> QNetwork:
    """Blocks of `kind` with kernels 3, 5 and 7, strides 1 and 2, equal and unequal widths, on an input of odd size."""
    args = [BlockArgs(kind, 3, 16, 3, 2, 2, act), BlockArgs(kind, 16, 16, 5, 1, 1, act),
            BlockArgs(kind, 16, 24, 7, 1.5, 2, act)]
    torch.manual_seed(0)
    return lively(QNetwork(NetSpec((("stage", tuple(map(build_block, args))),), 33)))


def answers(net: QNetwork, model) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of both for the same four random images, in torch's axes."""
    from modules.deploy.to_keras.session import KerasSession

    images = torch.randn(4, 3, net.resolution, net.resolution, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(images).numpy()
    return expected, KerasSession(model).run(None, {"input": images.numpy()})[0]


def assert_alike(net: QNetwork, model) -> None:
    expected, found = answers(net, model)
    assert expected.shape == found.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@needs_tensorflow
@pytest.mark.parametrize("kind", [kind for kind in get_available_blocks() if kind not in ("Pool", "Logits")])
@pytest.mark.parametrize("act", ["relu", "relu6", "hswish", "swish"])
def test_every_block_type_computes_what_torch_computes(kind, act):
    from modules.deploy.to_keras.view import keras_subnet

    net = block_network(kind, act)
    assert_alike(net, keras_subnet(net))


@needs_tensorflow
@pytest.mark.parametrize("encoding", ["onnxw_tiny-053412-000000", "mobilew-123456-000000"])
def test_the_active_subnet_of_a_supernet_as_a_keras_model(encoding):
    from modules.deploy.to_keras.view import get_active_tf_subnet

    supernet = Supernet(SupernetConfig.from_str(encoding), 10, (32,))
    lively(supernet)
    supernet.set_min_subnet()
    model = get_active_tf_subnet(supernet)
    assert model.output_shape == (None, 10)
    assert_alike(supernet.get_active_subnet().eval(), model)


@needs_tensorflow
def test_a_saved_model_and_its_conversion_answer_as_the_network_does(tmp_path):
    from modules.deploy.to_keras.converter import convert
    from modules.deploy.to_keras.export import load_keras
    from modules.deploy.to_keras.view import keras_subnet
    from modules.runtime.litert import open_session
    from modules.runtime.session import predict

    net = subnet("onnxw_tiny-053412-000000")
    model = keras_subnet(net)
    model.save(tmp_path / "net.keras")
    assert_alike(net, load_keras(tmp_path / "net.keras"))
    images = torch.randn(16, 3, net.resolution, net.resolution, generator=torch.Generator().manual_seed(2))
    expected = predict_torch(net, images)
    np.testing.assert_allclose(predict(open_session(convert(model)), images.numpy()), expected, rtol=0,
                               atol=1e-4 * np.abs(expected).max())
    session = open_session(convert(model, [images.permute(0, 2, 3, 1).numpy()]))
    error = np.abs(predict(session, images.numpy()) - expected).mean()
    assert 0 < error < 0.2 * expected.std()  # codes of 8 bits, so neither equal nor far away
    with pytest.raises(UserError, match=r"none\.keras"):
        load_keras(tmp_path / "none.keras")
    (tmp_path / "bad.keras").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"bad\.keras.*cannot be opened"):
        load_keras(tmp_path / "bad.keras")


def predict_torch(net: QNetwork, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return net(images).numpy()


@needs_tensorflow
def test_a_trained_subnet_is_exported_compared_and_described(tmp_path):
    from modules.deploy.to_keras.export import export_trained
    from modules.runtime.litert import open_session

    config = SupernetConfig.from_str("onnxw_tiny-053412-000000")
    torch.manual_seed(0)
    supernet = Supernet(config, 10, (32,))
    save_checkpoint(tmp_path / "checkpoint.pth", {"state_dict": supernet.state_dict(), "config": ModelRecord(
        str(config), (32,), tuple("0123456789"), "digits", training={"augment": "default"}).to_dict()})
    evaluator = SubnetEvaluator.open(tmp_path / "checkpoint.pth", config, quant_mode=False, batch_size=16,
                                     calibration_batches=2, limit_batches=3)
    choice = supernet.set_min_subnet()
    (keras_file, exact), (int8_file, converted) = export_trained(evaluator, choice, tmp_path)
    assert (keras_file.suffix, exact.images, exact.differing) == (".keras", 48, 0)
    assert exact.max_logit_error < 1e-4
    assert converted.mean_logit_error > exact.mean_logit_error
    metadata = open_session(int8_file).metadata
    assert (metadata["subnet"], metadata["dataset"]) == (str(choice), "digits")


def test_random_weights_never_replace_a_trained_keras_model(tmp_path):
    """The manifest of a trained one holds its agreement with the network."""
    from modules.deploy.to_keras.export import export_untrained, keras_path

    space, choice = SupernetConfig.from_str("onnxw_tiny-000000-000000"), SubnetChoiceConfig.from_str(SMALLEST)
    path = keras_path(tmp_path, space, choice)
    path.write_bytes(b"trained")
    write_manifest(path, agreement={"images": 48})
    with pytest.raises(UserError, match=r"\.keras' is a trained model; random weights would replace it"):
        export_untrained(space, choice, tmp_path)
    assert path.read_bytes() == b"trained"


@needs_tensorflow
def test_export_then_benchmark_with_the_converter_as_baseline(tmp_path):
    (tmp_path / "in.csv").write_text(f"onnxw_tiny,000000-000000,{SMALLEST}\n")
    done = run_script("tflite_tools/export_keras.py", "--input", tmp_path / "in.csv", "--output_dir", tmp_path,
                      "--skip_weights")
    assert done.returncode == 0, done.stderr
    written = [line for line in done.stdout.splitlines() if line]
    assert [line.rpartition("_")[2] for line in written] == [written[0].rpartition("_")[2], "int8.tflite"]
    done = run_script("tflite_tools/benchmark.py", "--input", tmp_path / "in.csv", "--model_dir", tmp_path, "--output",
                      tmp_path / "latency.csv", "--num_runs", "3", "--warmup_runs", "1", "--baselines", "converter")
    assert done.returncode == 0, done.stderr
    assert "converter" in done.stdout.splitlines()[-1]
    header, row = (tmp_path / "latency.csv").read_text().splitlines()
    assert float(dict(zip(header.split(","), row.split(","), strict=False))["converter_ms"]) > 0


def test_without_tensorflow_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import then fails, as without TensorFlow
    with pytest.raises(UserError, match=r"pip install tensorflow-cpu"):
        import_tensorflow()


def test_tensorflow_is_imported_in_its_own_path_only():
    code = ("import importlib, pkgutil, sys, modules\n"
            "for m in pkgutil.walk_packages(modules.__path__, 'modules.'):\n"
            "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
            "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))")
    done = run_script("-c", code)
    assert done.stdout.strip() == "[]", done.stderr
