"""Model files of other programs: each is run rightly, or refused in a line that names the fault."""
import sys

import numpy as np
import pytest
from foreign_models import BYTE, FLOAT, HALF, WEIGHT, mean_classifier

from modules.deploy.check.classify import classify
from modules.runtime.engines import engine_of, is_model_file, open_model
from modules.runtime.litert import open_session as open_litert
from modules.runtime.openvino import open_openvino
from modules.runtime.ort import open_session
from modules.runtime.session import predict, predict_logits, time_interleaved
from modules.utils.errors import UserError

onnx = pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize(("inputs", "cast", "fault"), [
    ([("i", FLOAT, ["n", 3, 16, 16]), ("j", FLOAT, ["n", 4])], False, r"takes tensor\(float\), tensor\(float\)"),
    ([("i", HALF, ["n", 3, 16, 16])], True, r"takes tensor\(float16\); allowed: one input"),
    ([("i", FLOAT, ["n", 3, "h", "w"])], False,
     r"takes \['n', 3, 'h', 'w'\]; allowed: images \(1 or free, 3, side, side\)"),
    ([("i", FLOAT, ["n", 3, 16, 24])], False, r"takes \['n', 3, 16, 24\]"),
    ([("i", FLOAT, [8, 3, 16, 16])], False, r"takes \[8, 3, 16, 16\]"),
    ([("i", FLOAT, ["n", 1, 16, 16])], False, r"takes \['n', 1, 16, 16\]"),
    ([("i", FLOAT, ["n", 3, 16])], False, r"takes \['n', 3, 16\]"),
    ([("i", BYTE, ["n", 3, 16, 16])], True, r"takes \['n', 3, 16, 16\]; allowed: images \(1 or free, side, side, 3\)"),
])
def test_a_model_that_takes_no_images_is_refused(tmp_path, inputs, cast, fault):
    weight = WEIGHT[:1] if 1 in inputs[0][2] else WEIGHT
    path = mean_classifier(tmp_path / "net.onnx", inputs, weight, cast)
    with pytest.raises(UserError, match=fault):
        open_model(path)


def test_the_ending_names_the_engine():
    assert (engine_of("a.b/net.onnx").package, engine_of("net.tflite").package) == ("onnxruntime",
                                                                                    "ai_edge_litert.interpreter")
    for name in ("net.pth", "net", "net.onnx.json"):
        assert not is_model_file(name)
        with pytest.raises(UserError, match=rf"model '{name}'; allowed: files that end in \.onnx or \.tflite"):
            open_model(name)


def test_without_openvino_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # an import then fails, as without the package
    with pytest.raises(UserError, match="needs the package openvino; allowed without it: static"):
        open_openvino("net.onnx")


def test_a_model_without_inputs_is_refused(tmp_path):
    helper = onnx.helper
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [],
                              [helper.make_tensor_value_info("y", 1, [3, 4])],
                              [onnx.numpy_helper.from_array(WEIGHT, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="takes nothing; allowed: one input"):
        open_session(tmp_path / "net.onnx")


def test_a_model_of_one_image_at_a_time_answers_a_batch(tmp_path):
    images = np.random.default_rng(1).normal(0, 1, (5, 3, 16, 16)).astype(np.float32)
    for batch in (1, "n"):
        session = open_model(mean_classifier(tmp_path / f"{batch}.onnx", [("i", FLOAT, [batch, 3, 16, 16])]))
        np.testing.assert_allclose(predict(session, images), images.mean((2, 3)) @ WEIGHT, atol=1e-6)


@pytest.mark.parametrize(("operator", "shape", "given"), [
    ("ArgMax", [None], r"gives \[1\] for 1 images; expected logits \(images, classes\)"),
    ("Unsqueeze", [None, 4, 1], r"gives \[1, 4, 1\] for 1 images")])
def test_a_model_that_gives_no_logits_is_refused(tmp_path, operator, shape, given):
    """The number of the class, and a classifier whose last step is missing."""
    helper, path = onnx.helper, mean_classifier(tmp_path / "net.onnx", [("i", FLOAT, ["n", 3, 16, 16])])
    model = onnx.load(path)
    inputs, options = (["y"], {"axis": 1, "keepdims": 0}) if operator == "ArgMax" else (["y", "axes"], {})
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "axes"))
    model.graph.node.append(helper.make_node(operator, inputs, ["z"], **options))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", 7 if operator == "ArgMax" else 1, shape))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=given):
        predict_logits(open_model(path), np.zeros((1, 3, 16, 16), np.float32))


def test_a_model_that_fails_on_its_images_is_an_error_with_its_name(tmp_path):
    """Its reshape fits no image."""
    helper, path = onnx.helper, mean_classifier(tmp_path / "net.onnx", [("i", FLOAT, [1, 3, 16, 16])])
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 7]), "sides"))
    model.graph.node.append(helper.make_node("Reshape", ["i", "sides"], ["z"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", 1, [None, None]))
    path.write_bytes(model.SerializeToString())
    session = open_model(path)
    with pytest.raises(UserError, match=r"net\.onnx' fails under onnxruntime"):
        predict(session, np.zeros((1, 3, 16, 16), np.float32))
    with pytest.raises(UserError, match=r"net\.onnx' fails under onnxruntime"):
        time_interleaved({"": session}, runs=1, warmup=0)


def test_a_model_of_a_free_size_is_not_timed(tmp_path):
    session = open_session(mean_classifier(tmp_path / "net.onnx", [("i", FLOAT, ["n", 3, "h", "w"])]))
    with pytest.raises(UserError, match=r"net\.onnx' takes \['n', 3, 'h', 'w'\]; allowed for timing: a fixed size"):
        time_interleaved({"": session}, runs=1, warmup=0)


def test_an_answer_that_is_not_finite_is_refused(tmp_path):
    path = mean_classifier(tmp_path / "net.onnx", [("i", FLOAT, ["n", 3, 16, 16])], np.full_like(WEIGHT, np.nan))
    Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / "red.png")
    session = open_model(path)
    with pytest.raises(UserError, match=r"net\.onnx' is not finite: logits of 1 of 1 images"):
        classify(session, session.metadata, tmp_path / "red.png")


def test_tflite_files_of_tensorflow_answer_alike_with_bytes_and_with_signed_bytes(tmp_path):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("ai_edge_litert")
    source = tf.keras.Input((16, 16, 3))
    layer = tf.keras.layers.Dense(4, use_bias=False)
    model = tf.keras.Model(source, layer(tf.keras.layers.GlobalAveragePooling2D()(source)))
    layer.set_weights([WEIGHT])
    rng = np.random.default_rng(2)
    images = rng.uniform(-1, 1, (20, 3, 1, 1)).astype(np.float32).repeat(16, 2).repeat(16, 3)

    def written(form, name):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None].transpose(0, 2, 3, 1)] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = form
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(converter.convert())
        return path

    signed, bytes_ = (predict(open_model(written(form, form.name)), images) for form in (tf.int8, tf.uint8))
    np.testing.assert_array_equal(signed, bytes_)
    np.testing.assert_allclose(signed, images.mean((2, 3)) @ WEIGHT, atol=0.1)

    vector = tf.keras.Input((8,))
    plain = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(vector, tf.keras.layers.Dense(3)(vector))).convert()
    with pytest.raises(UserError, match=r"has the inputs float32 \[1, 8\]; allowed: one"):
        open_litert(plain)


def test_a_model_of_several_outputs_or_of_integers_is_refused(tmp_path):
    helper = onnx.helper
    source, logits = (helper.make_tensor_value_info(*facts) for facts in (("i", FLOAT, [1, 3, 16, 16]),
                                                                          ("y", FLOAT, [1, 3])))
    codes = helper.make_tensor_value_info("codes", 7, [1, 3])
    nodes = [helper.make_node("ReduceMean", ["i"], ["y"], axes=[2, 3], keepdims=0),
             helper.make_node("Cast", ["y"], ["codes"], to=7)]
    opset = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8}
    for outputs, fault in (([logits, codes], "has 2 outputs; allowed: one"), ([codes], "gives int64; expected logits")):
        model = helper.make_model(helper.make_graph(nodes, "g", [source], outputs), **opset)
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=fault):
            predict_logits(open_model(tmp_path / "net.onnx"), np.zeros((1, 3, 16, 16), np.float32))
