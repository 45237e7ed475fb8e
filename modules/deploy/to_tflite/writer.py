"""TFLite files from an inference graph."""
from __future__ import annotations

from modules.deploy.graph.graph import Graph
from modules.deploy.to_tflite.float_writer import FloatWriter, Form
from modules.deploy.to_tflite.int8_writer import Int8Writer
from modules.utils.files import atomic_write


def tflite_bytes(graph: Graph, metadata: dict[str, str] | None = None, form: Form | None = None) -> bytes:
    """`graph` as a TFLite file: int8 if its layers carry codes, float otherwise.

    The model takes `input` (1, R, R, 3), normalised, and gives `output` (1, classes). In float both are float32; the
    int8 model takes codes (the file holds their scale and zero point) and gives float32. A part of a network gives (1,
    height, width, channels), as codes if it is int8. Each entry of `metadata` becomes one of the model's.
    """
    return (Int8Writer if graph.int8 else FloatWriter)(graph, form or Form()).content(metadata or {})


def write_tflite(graph: Graph, path, metadata: dict[str, str] | None = None, form: Form | None = None) -> None:
    """Write `tflite_bytes` to `path`, atomically."""
    content = tflite_bytes(graph, metadata, form)
    with atomic_write(path, "wb") as file:
        file.write(content)
