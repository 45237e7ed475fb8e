"""Products of integers under onnxruntime: exact on every processor, and by its slow kernels only where they must be."""
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modules.runtime import runner
from modules.runtime.ort import open_session


def saturating_model(channels: int, kernel: int, group: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Model of one integer convolution, its image and weights; sums of two products are beyond 16 bits."""
    rng = np.random.default_rng(kernel)
    image = rng.integers(200, 256, (1, channels, 8, 8), dtype=np.uint8)
    weight = rng.integers(100, 128, (16, channels // group, kernel, kernel), dtype=np.int8)
    weight[1::2] *= -1
    scale = np.float32(2.0 * weight[0].size)  # so that outputs fill half of the 255 codes around 128
    constants = {"one": np.float32(1), "none": np.uint8(0), "weight": weight, "zero": np.int8(0),
                 "scale": np.float32(scale * 128), "middle": np.uint8(128)}
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [helper.make_node("QuantizeLinear", ["image", "one", "none"], ["codes"]),
             helper.make_node("QLinearConv", ["codes", "one", "none", "weight", "one", "zero", "scale", "middle"],
                              ["sums"], group=group),
             helper.make_node("DequantizeLinear", ["sums", "one", "middle"], ["answer"])]
    graph = helper.make_graph(
        nodes, "products", [helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, None)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString(), image, weight


def exact(image: np.ndarray, weight: np.ndarray, group: int) -> np.ndarray:
    """The same convolution in 64 bits, of shape (16, 8 - kernel + 1, 8 - kernel + 1)."""
    kernel = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(image[0].astype(np.int64), (kernel, kernel), (1, 2))
    each = 16 // group
    sums = [np.einsum("chwij,cij->hw", windows[o // each * weight.shape[1]:][:weight.shape[1]],
                      weight[o].astype(np.int64)) for o in range(16)]
    return np.stack(sums) / np.float64(2.0 * weight[0].size * 128)


@pytest.mark.parametrize(("channels", "kernel", "group"), [(32, 3, 1), (64, 1, 1), (16, 3, 16), (16, 5, 16)],
                         ids=["3 x 3", "1 x 1", "depthwise 3 x 3", "depthwise 5 x 5"])
def test_large_products_do_not_saturate(channels, kernel, group):
    content, image, weight = saturating_model(channels, kernel, group)
    engine = open_session(content).engine
    (answer,) = engine.run(None, {"image": image.astype(np.float32)})
    expected = exact(image, weight, group)
    assert expected.max() > 80
    assert expected.min() < -80
    assert abs(answer[0] - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("machine", "flags", "saturate"), [
    ("x86_64", "avx2", True), ("x86_64", "avx2 avx512_vnni", False), ("AMD64", "avx2 avx_vnni", False),
    ("AMD64", "", True), ("aarch64", "", False)])
def test_slow_kernels_are_asked_for_where_products_may_saturate_alone(machine, flags, saturate, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(runner, "_processor", lambda: ("a processor", flags.split()))
    assert runner.products_saturate() == saturate
    options = runner.onnxruntime_options(1)
    try:
        value = options.get_session_config_entry(runner.EXACT[0])
    except RuntimeError:  # the option was not set
        value = "0"
    assert value == ("1" if saturate else "0")
