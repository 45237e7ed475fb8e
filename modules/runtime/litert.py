"""TFLite files under LiteRT (ai-edge-litert)."""
from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.runtime.metadata import Metadata
from modules.runtime.session import Input, opening
from modules.utils.errors import UserError
from modules.utils.text import read_bytes

MAX_ENTRIES = 1000  # of metadata
MAX_MODEL = 1 << 31  # bytes; offsets in the format have 31 bits


@dataclass(frozen=True)
class Delegation:
    """The share of XNNPACK in a model: operators of the file, operators that XNNPACK runs, and pieces that these
    form."""

    operators: int
    delegated: int
    partitions: int

    def __str__(self) -> str:
        return f"XNNPACK runs {self.delegated} of {self.operators} operators in {self.partitions} partition(s)"


class LiteRtSession:
    """A TFLite model ready to run. Inputs and outputs are float32; codes of an integer model stay inside."""

    def __init__(self, content: bytes, threads: int, xnnpack: bool = True, name: str = "(bytes)"):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.BUILTIN if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self.interpreter = Interpreter(model_content=content, num_threads=threads,
                                       experimental_op_resolver_type=resolver)
        self.interpreter.allocate_tensors()
        self.metadata = Metadata(read_metadata(content), name)
        inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        for tensors, ranks in ((inputs, (4,)), (outputs, (2, 4))):
            if [_is_held(tensor) and len(tensor["shape"]) in ranks for tensor in tensors] != [True]:
                given = ", ".join(f"{tensor['dtype'].__name__} {tensor['shape'].tolist()}" for tensor in tensors)
                what = "inputs" if tensors is inputs else "outputs"
                raise UserError(f"model {name!r} has the {what} {given or 'none'}; allowed: one, float32 or integers "
                                f"with a scale, of {' or '.join(map(str, ranks))} dimensions")
        (self._input,), (self._output,) = inputs, outputs

    def get_inputs(self) -> list[Input]:
        """The one input."""
        batch, height, width, channels = map(int, self._input["shape"])
        return [Input(self._input["name"], (batch, channels, height, width))]

    def run(self, _, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The output for the images (N, C, H, W) in `feeds`, one after the other."""
        (images,) = feeds.values()
        return [np.concatenate([self._run_one(image[None]) for image in images])]

    def _run_one(self, image: np.ndarray) -> np.ndarray:
        self.feed(image)
        self.invoke()
        result = _values(self.interpreter.get_tensor(self._output["index"]), self._output)
        return result.transpose(0, 3, 1, 2) if result.ndim == 4 else result

    def feed(self, image: np.ndarray) -> None:
        """Set the input to an image (1, C, H, W)."""
        image = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
        self.interpreter.set_tensor(self._input["index"], _codes(image, self._input))

    def invoke(self) -> None:
        """Run the model on the fed image."""
        self.interpreter.invoke()

    def delegation(self) -> Delegation:
        """The share of XNNPACK in the model."""
        details = self.interpreter._get_ops_details()  # the only call that gives it
        partitions = [op for op in details if op["op_name"] == "DELEGATE"]
        operators = [op for op in details if op["op_name"] != "DELEGATE"]
        producers = {int(tensor): op for op in operators for tensor in op["outputs"]}
        taken: set[int] = set()
        for partition in partitions:
            # A partition runs the operators between its outputs and its inputs.
            known, wanted = set(map(int, partition["inputs"])), list(map(int, partition["outputs"]))
            while wanted:
                tensor = wanted.pop()
                if tensor not in known and tensor in producers:
                    known.add(tensor)
                    taken.add(producers[tensor]["index"])
                    wanted.extend(int(i) for i in producers[tensor]["inputs"] if i >= 0)
        return Delegation(len(operators), len(taken), len(partitions))


def _is_held(tensor: dict) -> bool:
    """Whether the values of a tensor are float32, or integers with one scale."""
    if np.issubdtype(tensor["dtype"], np.integer):
        return tensor["quantization"][0] > 0
    return tensor["dtype"] == np.float32


def _codes(values: np.ndarray, tensor: dict) -> np.ndarray:
    (scale, zero), form = tensor["quantization"], tensor["dtype"]
    if form == np.float32:
        return values.astype(form)
    limits = np.iinfo(form)
    return np.clip(np.round(values / np.float32(scale)) + zero, limits.min, limits.max).astype(form)


def _values(codes: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero = tensor["quantization"]
    return codes if tensor["dtype"] == np.float32 else (codes.astype(np.float32) - zero) * np.float32(scale)


def open_session(model: str | Path | bytes, threads: int = 1, xnnpack: bool = True) -> LiteRtSession:
    """A LiteRT CPU session, by default with XNNPACK; UserError if LiteRT or the file is missing, or the file is no
    model."""
    litert_schema()  # checks that it is installed
    with opening(model, "LiteRT", "tflite_tools/export_tflite.py", ValueError, RuntimeError):
        if isinstance(model, bytes):
            return LiteRtSession(model, threads, xnnpack)
        return LiteRtSession(read_bytes(model, "model", MAX_MODEL), threads, xnnpack, str(model))


def litert_schema():
    """The classes of the file format, from LiteRT; UserError if LiteRT is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise UserError("package ai-edge-litert is not installed; it writes and runs TFLite files "
                        "(requirements.txt)") from None
    return schema_py_generated


def read_metadata(content: bytes) -> dict[str, str]:
    """The text metadata of a file; metadata of other writers in bytes are left out.

    Raises:
        UserError: bytes that cannot be read as metadata.
    """
    schema, entries = litert_schema(), {}
    try:
        model = schema.Model.GetRootAs(content, 0)
        for i in range(min(model.MetadataLength(), MAX_ENTRIES)):
            entry = model.Metadata(i)
            value = model.Buffers(entry.Buffer()).DataAsNumpy()
            with contextlib.suppress(UnicodeDecodeError):
                entries[entry.Name().decode()] = value.tobytes().decode() if isinstance(value, np.ndarray) else ""
    except Exception as error:  # flatbuffers follows offsets unchecked: it fails in many ways
        raise UserError(f"the metadata of a TFLite model cannot be read: {type(error).__name__}: {error}") from None
    return entries
