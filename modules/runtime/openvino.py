"""ONNX files under OpenVINO, which is optional."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.runtime.metadata import Metadata
from modules.runtime.session import Input, opening
from modules.utils.errors import UserError


class OpenVinoSession:
    """A file compiled by OpenVINO for one image at a time."""

    def __init__(self, path: str | Path, threads: int):
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape([1, *(dimension.get_length() for dimension in list(model.input().partial_shape)[1:])])
        self._model = core.compile_model(model, "CPU", {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
        self._request = self._model.create_infer_request()
        self.metadata = Metadata({}, path)

    def get_inputs(self) -> list[Input]:
        """The one input."""
        port = self._model.input()
        return [Input(port.get_any_name(), list(port.get_shape()), port.get_element_type().get_type_name() == "u8")]

    def run(self, _, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The output for the one image (1, C, H, W) in `feeds`."""
        (image,) = feeds.values()
        return [self._request.infer([image])[self._model.output()]]

    def feed(self, images: np.ndarray) -> None:
        """Put one image (1, C, H, W), or of bytes (1, H, W, C), into the input."""
        import openvino

        self._request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(images)))

    def invoke(self) -> None:
        """Run the model on the fed image."""
        self._request.infer()


def open_openvino(path: str | Path, threads: int = 1) -> OpenVinoSession:
    """`path` under OpenVINO; UserError if OpenVINO or the file is missing, or OpenVINO cannot read the file."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        raise UserError("baseline 'openvino' needs the package openvino; allowed without it: static") from None
    with opening(path, "OpenVINO", "onnx_tools/export_onnx.py", RuntimeError):
        return OpenVinoSession(path, threads)
