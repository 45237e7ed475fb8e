"""Carried out of modules/deploy/baselines.py."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.runtime.session import Input
from modules.utils.errors import UserError


class OpenVinoSession:
    """A file compiled by OpenVINO for one image; it is used as a session of onnxruntime is."""

    def __init__(self, path: str | Path, threads: int):
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape([1, *(dimension.get_length() for dimension in list(model.input().partial_shape)[1:])])
        self._model = core.compile_model(model, "CPU", {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
        self._request = self._model.create_infer_request()

    def get_inputs(self) -> list:
        """The one input; onnxruntime's call."""
        port = self._model.input()
        return [Input(port.get_any_name(), list(port.get_shape()))]

    def run(self, _, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The output for one image (1, C, H, W) of `feeds`; onnxruntime's call."""
        (image,) = feeds.values()
        return [self._request.infer([image])[self._model.output()]]


def open_openvino(path: str | Path, threads: int = 1) -> OpenVinoSession:
    """`path` under OpenVINO; UserError if OpenVINO or the file is missing, or it cannot read it."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        raise UserError("baseline 'openvino' needs the package openvino; allowed without it: static") from None
    if not Path(path).is_file():
        raise UserError(f"model {str(path)!r} does not exist; onnx_tools/export_onnx.py writes it")
    try:
        return OpenVinoSession(path, threads)
    except RuntimeError as error:
        raise UserError(f"model {str(path)!r} cannot be opened by OpenVINO: {str(error).splitlines()[0][:200]}"
                        ) from None
