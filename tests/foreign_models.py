"""ONNX files that other programs might have written."""
import json

import numpy as np
import pytest

METADATA = {"classes": json.dumps(["a", "b", "c", "d"]), "mean": "[0, 0, 0]", "std": "[1, 1, 1]", "crop_size": "16"}
FLOAT, BYTE, HALF = 1, 2, 10  # of ONNX
WEIGHT = np.random.default_rng(0).normal(0, 1, (3, 4)).astype(np.float32)


def mean_classifier(path, inputs, weight=WEIGHT, cast=False, metadata=METADATA):
    """Writes logits = mean of each channel @ weight, with the given inputs (name, type, shape), of which it uses the
    first."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    nodes = [helper.make_node("Cast", [inputs[0][0]], ["x"], to=1)] if cast else []
    nodes += [helper.make_node("GlobalAveragePool", ["x" if cast else inputs[0][0]], ["p"]),
              helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    for name, *_ in inputs[1:]:
        nodes.append(helper.make_node("Identity", [name], [f"{name}_out"]))
    outputs = [("y", 1, [None, weight.shape[1]]), *((f"{name}_out", form, shape) for name, form, shape in inputs[1:])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(*source) for source in inputs],
                              [helper.make_tensor_value_info(*output) for output in outputs],
                              [onnx.numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path
