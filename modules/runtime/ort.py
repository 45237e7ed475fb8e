"""Running and timing ONNX files with onnxruntime."""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modules.runtime.metadata import Metadata, read_normalization
from modules.runtime.runner import EXACT
from modules.utils import memory
from modules.utils.errors import UserError


def open_session(model: str | Path | bytes, threads: int = 1, optimized_path: str | Path | None = None,
                 profile_path: str | Path | None = None):
    """An onnxruntime CPU session with all graph optimisations; UserError if the file is missing or not a model.

    `optimized_path`: where to write the graph that onnxruntime really runs; `profile_path`: how the name of the file
    that its `end_profiling()` writes begins.
    """
    import onnxruntime as ort

    if not isinstance(model, bytes):
        if not Path(model).is_file():
            raise UserError(f"model {str(model)!r} does not exist; onnx_tools/export_onnx.py writes it")
        model = str(model)
    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry(*EXACT)
    if optimized_path:
        options.optimized_model_filepath = str(optimized_path)
    if profile_path:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_path)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own unrelated classes
        raise UserError(f"model {model if isinstance(model, str) else '(bytes)'!r} cannot be opened by onnxruntime: "
                        f"{str(error).splitlines()[0][:200]}") from None


def open_model(model: str | Path | bytes, threads: int = 1):
    """A session on normalised images (N, 3, R, R), also of a model that takes bytes."""
    session = open_session(model, threads)
    if session.get_inputs()[0].type != "tensor(uint8)":
        return session
    from modules.runtime.pixel_session import PixelSession

    return PixelSession(session, *read_normalization(session_metadata(session, model)))


def session_metadata(session, model: str | Path | bytes) -> Metadata:
    """What the file `model`, opened as `session`, says of itself."""
    try:
        return Metadata(session.get_modelmeta().custom_metadata_map, model)
    except UnicodeDecodeError:
        raise UserError(f"model {str(model)!r}: its metadata are not UTF-8 text") from None




def time_interleaved(sessions: dict, runs: int = 50, warmup: int = 10,
                     clock: Callable[[], float] = time.perf_counter) -> dict[str, np.ndarray]:
    """Latencies in milliseconds of several sessions on one random image each, measured in turns.

    Turns make the sessions share whatever the machine goes through, so that their ratios hold on a noisy one. With
    `time.process_time` as clock, the time in which other processes had the core does not count.
    """
    rng = np.random.default_rng(0)
    feeds = {}
    for name, session in sessions.items():
        image = session.get_inputs()[0]
        shape = [d if isinstance(d, int) else 1 for d in image.shape]
        bytes_wanted = getattr(image, "type", "") == "tensor(uint8)"
        feeds[name] = {image.name: rng.integers(0, 256, shape, np.uint8) if bytes_wanted
                       else rng.standard_normal(shape, dtype=np.float32)}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(-warmup, runs):
        for name, session in sessions.items():
            start = clock()
            session.run(None, feeds[name])
            if turn >= 0:
                times[name].append((clock() - start) * 1e3)
    return {name: np.array(values) for name, values in times.items()}




def peak_memory_mb(model: str | Path, threads: int = 1) -> float | None:
    """MB (10^6 bytes) of resident memory that a process gains at most by opening a model and running it; None where
    the system does not tell."""
    return memory.peak_memory_mb(_open_and_run, str(model), threads, modules=("onnxruntime",))


def _open_and_run(model: str, threads: int) -> None:
    time_interleaved({"": open_session(model, threads)}, runs=1, warmup=0)


def optimized_ops(model: str | Path, folder: str | Path) -> dict[str, int]:
    """How often each operator occurs in the graph that onnxruntime runs for `model`; `folder` holds a scratch file."""
    from collections import Counter

    import onnx

    path = Path(folder) / f".{Path(model).stem}.optimized.onnx"
    try:
        open_session(model, optimized_path=path)
        return dict(Counter(node.op_type for node in onnx.load(path).graph.node))
    finally:
        path.unlink(missing_ok=True)
