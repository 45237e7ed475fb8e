"""The engines by name, and the one that runs a file."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modules.runtime import litert, openvino, ort
from modules.runtime.metadata import model_name, read_normalization
from modules.runtime.session import Session, peak_memory_mb
from modules.utils.errors import UserError
from modules.utils.registry import Registry


@dataclass(frozen=True)
class Engine:
    """A runtime: `open` gives the session of a file for a number of threads, `package` is the module that it imports.
    """

    open: Callable[[str | Path, int], Session]
    package: str
    suffix: str

    def peak_memory_mb(self, model: str | Path, threads: int = 1) -> float | None:
        """Peak memory in MB (10^6 bytes) of opening `model` and running it; None: not known."""
        return peak_memory_mb(self.open, self.package, model, threads)


engines: Registry[Engine] = Registry("engine")
engines.add("onnxruntime", Engine(ort.open_session, "onnxruntime", ".onnx"))
engines.add("litert", Engine(litert.open_session, "ai_edge_litert.interpreter", ".tflite"))
engines.add("openvino", Engine(openvino.open_openvino, "openvino", ".onnx"))


def is_model_file(name: str | Path) -> bool:
    """Whether `name` ends like the files of an engine."""
    return Path(name).suffix in _by_suffix()


def _by_suffix() -> dict[str, Engine]:
    """The first engine that runs files with each ending."""
    return {engines[name].suffix: engines[name] for name in reversed(engines.names())}


def engine_of(model: str | Path) -> Engine:
    """The first engine that runs files with the ending of `model`; UserError if none does."""
    if not is_model_file(model):
        raise UserError(f"model {str(model)!r}; allowed: files that end in {' or '.join(sorted(_by_suffix()))}")
    return _by_suffix()[Path(model).suffix]


def open_model(model: str | Path, threads: int = 1) -> Session:
    """A session on normalised images (N, 3, R, R), even if the file takes bytes; UserError if there is no such model,
    or it takes anything else than images, or has several outputs."""
    session = engine_of(model).open(model, threads)
    _check_images(session)
    if (outputs := getattr(session, "outputs", 1)) != 1:
        raise UserError(f"{model_name(session.metadata)} has {outputs} outputs; allowed: one, the logits")
    if not session.get_inputs()[0].pixels:
        return session
    from modules.runtime.pixel_session import PixelSession

    return PixelSession(session, *read_normalization(session.metadata))


def _check_images(session: Session) -> None:
    """UserError if the model takes no square images of three channels and one size, one at a time or as many as
    given."""
    (source,) = session.get_inputs()
    batch, *sides = source.shape if len(source.shape) == 4 else [None] * 4
    if source.pixels:
        sides = sides[2:] + sides[:2]
    channels, height, width = sides
    if (channels, height) != (3, width) or not isinstance(height, int) or (isinstance(batch, int) and batch != 1):
        layout = "(1 or free, side, side, 3)" if source.pixels else "(1 or free, 3, side, side)"
        raise UserError(f"{model_name(session.metadata)} takes {list(source.shape)}; allowed: images {layout} of a "
                        "fixed side")
