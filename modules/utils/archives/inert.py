"""Unpickling that runs no code of a foreign file: everything but tensors becomes a placeholder."""
from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import ClassVar

# Names that a file of tensors needs. Every other name in the pickle becomes a placeholder.
_ALLOWED = {
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32",
                                   "int64", "bool")),
}


class _InertUnpickler(pickle._Unpickler):
    # The unpickler in Python, without one opcode: that opcode, and the unpickler in C, reserve whatever memory a
    # damaged file asks for.
    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items()
                          if code != pickle.BYTEARRAY8[0]}

    def find_class(self, module, name):
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        return type(name, (_Placeholder,), {"__module__": module})


def _load(file, **kwargs):
    return _InertUnpickler(file, **kwargs).load()


INERT_PICKLE = SimpleNamespace(__name__="pickle", Unpickler=_InertUnpickler, load=_load)  # in place of the module


class _Placeholder:
    """Stands for an object of a foreign file: keeps the state it was pickled with, runs none of its code."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        self.args, self.items = args, []

    def __setstate__(self, state):
        self.__dict__["state"] = state

    def __setitem__(self, key, value):
        self.__dict__.setdefault("items", []).append((key, value))

    def append(self, value):
        """Keep a list item."""
        self.__dict__.setdefault("items", []).append(value)

    def extend(self, values):
        """Keep several list items."""
        self.__dict__.setdefault("items", []).extend(values)

    def __hash__(self):
        return id(self)
