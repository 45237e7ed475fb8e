"""A TFLite file, operator by operator: tensors with their codes, buffers and operator codes. It knows nothing of
networks."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from modules.deploy.graph.graph import INPUT, OUTPUT
from modules.runtime.litert import litert_schema

SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
# Conv2D takes per-channel int8 weights from version 3 on, and so on. Old readers refuse newer versions.
_VERSIONS = {"CONV_2D": (1, 3), "DEPTHWISE_CONV_2D": (1, 3), "FULLY_CONNECTED": (1, 4), "ADD": (1, 2), "MUL": (1, 2),
             "LOGISTIC": (1, 2), "MEAN": (1, 2), "PAD": (1, 2), "QUANTIZE": (2, 2),
             "DEQUANTIZE": (2, 2), "CONCATENATION": (1, 2)}
# Fields of an options table that hold names, and the schema's class of these names.
_NAMED = {"padding": "Padding", "fusedActivationFunction": "ActivationFunctionType"}


@dataclass(frozen=True)
class Codes:
    """The meaning of a tensor's int8 codes, or of a bias's int32 codes: value = (code - zero_point) * scale.

    Several scales belong to the slices along `axis`.
    """

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


class TfliteModel:
    """Collects tensors and operators in order of execution; `content` is the finished file."""

    def __init__(self):
        self._schema = litert_schema()
        self._tensors, self._operators = [], []
        self._buffers = [self._schema.BufferT()]  # buffer 0 is empty; computed tensors share it
        self._opcodes: dict[str, int] = {}
        self._names = Counter()

    def tensor(self, name: str, shape, dtype, codes: Codes | None = None, data: np.ndarray | None = None) -> int:
        """Add a tensor and return its number; with `data` it is a constant."""
        schema, tensor = self._schema, self._schema.TensorT()
        self._names[name] += 1
        tensor.name = name if self._names[name] == 1 else f"{name}:{self._names[name]}"
        tensor.shape = np.array(shape, np.int32)
        tensor.type = getattr(schema.TensorType, np.dtype(dtype).name.upper())
        tensor.buffer = 0
        if data is not None:
            tensor.buffer = self._buffer(np.ascontiguousarray(data, dtype).tobytes())
        if codes is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array(codes.scales, np.float32)
            tensor.quantization.zeroPoint = np.full(len(codes.scales), codes.zero_point, np.int64)
            tensor.quantization.quantizedDimension = codes.axis
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, data: np.ndarray, codes: Codes | None = None) -> int:
        """Add a constant tensor and return its number."""
        return self.tensor(name, data.shape, data.dtype, codes, data)

    def _buffer(self, content: bytes) -> int:
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self._buffers.append(buffer)
        return len(self._buffers) - 1

    def operator(self, kind: str, inputs, output: int, options: str = "", **fields) -> int:
        """Add one builtin operator with its options table (`Conv2DOptions`, ...), and return its output tensor."""
        schema, operator = self._schema, self._schema.OperatorT()
        operator.opcodeIndex = self._opcodes.setdefault(kind, len(self._opcodes))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options:
            table = getattr(schema, f"{options}T")()
            for field, value in fields.items():
                named = getattr(schema, _NAMED[field]) if field in _NAMED else None
                setattr(table, field, getattr(named, value) if named else value)
            operator.builtinOptions = table
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        self._operators.append(operator)
        return output

    def _is_int8(self, tensor: int) -> bool:
        return self._tensors[tensor].type == self._schema.TensorType.INT8

    def content(self, inputs: list[int], outputs: list[int], metadata: dict[str, str]) -> bytes:
        """The file, with the given tensors as the model's input and output."""
        import flatbuffers

        schema = self._schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "subnet", self._tensors, self._operators
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        model = schema.ModelT()
        model.version, model.description, model.subgraphs = SCHEMA_VERSION, "subnet", [graph]
        model.operatorCodes = self._operator_codes()
        model.metadata = [self._entry(key, value) for key, value in metadata.items()]
        model.signatureDefs = [self._signature(inputs[0], outputs[0])]
        model.buffers = self._buffers
        builder = flatbuffers.Builder(sum(len(b.data) for b in self._buffers if b.data is not None) + 65536)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _entry(self, key: str, value: str):
        entry = self._schema.MetadataT()
        entry.name, entry.buffer = key, self._buffer(str(value).encode())
        return entry

    def _signature(self, source: int, target: int):
        signature = self._schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = [self._named(INPUT, source)], [self._named(OUTPUT, target)]
        return signature

    def _named(self, name: str, tensor: int):
        entry = self._schema.TensorMapT()
        entry.name, entry.tensorIndex = name, tensor
        return entry

    def _operator_codes(self):
        int8 = any(self._is_int8(op.inputs[0]) for op in self._operators)
        codes = []
        for kind in self._opcodes:
            code = self._schema.OperatorCodeT()
            code.builtinCode = getattr(self._schema.BuiltinOperator, kind)
            # Readers older than operator 127 read the older, one-byte field.
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = _VERSIONS.get(kind, (1, 1))[int8]
            codes.append(code)
        return codes


def add_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A TFLite file of another writer with `metadata` added in the form of `read_metadata`."""
    import flatbuffers

    schema = litert_schema()
    model = schema.ModelT.InitFromPackedBuf(content)
    model.metadata = model.metadata or []
    for key, value in metadata.items():
        entry, buffer = schema.MetadataT(), schema.BufferT()
        buffer.data = np.frombuffer(str(value).encode(), np.uint8)
        entry.name, entry.buffer = key, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    builder = flatbuffers.Builder(len(content) + 65536)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())
