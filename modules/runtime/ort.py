"""ONNX files under onnxruntime."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.runtime.metadata import Metadata
from modules.runtime.runner import onnxruntime_options
from modules.runtime.session import Input, opening
from modules.utils.errors import UserError, first_line

TYPES = ("tensor(float)", "tensor(uint8)")  # of the input


class OrtSession:
    """An ONNX model ready to run; `engine` is onnxruntime's own session of the file `name`."""

    def __init__(self, engine, name: str = "(bytes)"):
        self.engine, self.name = engine, name
        try:
            self.metadata = Metadata(engine.get_modelmeta().custom_metadata_map, name)
        except UnicodeDecodeError:
            raise UserError(f"model {name!r}: its metadata are not UTF-8 text") from None
        inputs = engine.get_inputs()
        if [source.type in TYPES for source in inputs] != [True]:
            given = ", ".join(source.type for source in inputs) or "nothing"
            raise UserError(f"model {name!r} takes {given}; allowed: one input, {' or '.join(TYPES)}")
        self._input = Input(inputs[0].name, inputs[0].shape, inputs[0].type == TYPES[1])
        self._feeds: dict[str, np.ndarray] = {}
        self.outputs = len(engine.get_outputs())

    def get_inputs(self) -> list[Input]:
        """The one input."""
        return [self._input]

    def run(self, names, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs called `names` (None: all) for the images in `feeds`; one after the other if the model takes only
        one."""
        (images,) = feeds.values()
        if self._input.shape[:1] != [1] or len(images) == 1:
            return self._run(names, feeds)
        results = [self._run(names, {self._input.name: image[None]}) for image in images]
        return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]

    def feed(self, images: np.ndarray) -> None:
        """Keep `images` for `invoke`."""
        self._feeds = {self._input.name: images}

    def invoke(self) -> None:
        """Run the model on the kept images."""
        self._run(None, self._feeds)

    def _run(self, names, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """UserError for a graph that fails on these images."""
        try:
            return self.engine.run(names, feeds)
        except Exception as error:  # onnxruntime raises its own unrelated classes
            raise UserError(f"model {self.name!r} fails under onnxruntime: {first_line(error)}") from None


def open_session(model: str | Path | bytes, threads: int = 1, optimized_path: str | Path | None = None,
                 profile_path: str | Path | None = None) -> OrtSession:
    """A CPU session with all graph optimisations; UserError if the file is missing, no model, or has not one input of
    floats or bytes.

    `optimized_path`: file for the graph that onnxruntime really runs. `profile_path`: beginning of the name of the file
    that `end_profiling()` writes.
    """
    with opening(model, "onnxruntime", "onnx_tools/export_onnx.py", Exception):  # it raises its own unrelated classes
        import onnxruntime as ort

        options = onnxruntime_options(threads)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if optimized_path:
            options.optimized_model_filepath = str(optimized_path)
        if profile_path:
            options.enable_profiling, options.profile_file_prefix = True, str(profile_path)
        source = model if isinstance(model, bytes) else str(model)
        engine = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return OrtSession(engine, "(bytes)" if isinstance(model, bytes) else str(model))


def optimized_ops(model: str | Path, folder: str | Path) -> dict[str, int]:
    """Number of each operator in the graph that onnxruntime runs for `model`; `folder` holds a scratch file."""
    from collections import Counter

    import onnx

    path = Path(folder) / f".{Path(model).stem}.optimized.onnx"
    try:
        open_session(model, optimized_path=path)
        return dict(Counter(node.op_type for node in onnx.load(path).graph.node))
    finally:
        path.unlink(missing_ok=True)
