"""Placement of the quantisers of activations, and the tensors of a block that an integer engine materialises.

Under placement "lsq", as published, every layer owns the quantiser of its input. Under "engine" every tensor that an
engine materialises owns a quantiser; the layers that read it take it unchanged. No torch code.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from modules.modeling.spec import BlockSpec
from modules.modeling.walk import walk

PLACEMENTS = ("lsq", "engine")
INPUT = "input"  # of the first block
GATE, SIGMOID = "gate", "sigmoid"
# The step of a hard sigmoid's codes, and of a swish's sigmoid: TFLite's LOGISTIC writes no other.
GATE_STEPS = {GATE: np.float32(1 / 255), SIGMOID: np.float32(1 / 256)}
# hard_sigmoid(x) in codes of 1/255 is x + 3 in codes of this step, saturated at both ends.
HARD_SIGMOID_STEP, HARD_SIGMOID_SHIFT = np.float32(6 / 255), np.float32(3)
# An engine folds these into the operator before them: that operator's plain result is not materialised.
_FOLDED = ("relu", "relu6", "hard_sigmoid")


def materialized(spec: BlockSpec, unused: bool = False) -> dict[str, str]:
    """The tensors of `spec` by name in order of execution; `unused`: those of unused layers and shortcuts too.

    The value is the smooth activation that reads the tensor; GATE or SIGMOID for a factor between 0 and 1; otherwise
    "".
    """
    if unused:
        spec = replace(spec, main=tuple(replace(layer, used=True) for layer in spec.main),
                       downsample=spec.downsample and replace(spec.downsample, used=True))
    forms = [spec]
    if unused and spec.sometimes_residual:
        forms.append(replace(spec, residual=True))
    kinds = {}
    for form in forms:
        names = _Names()
        walk(form, names, INPUT)
        kinds |= names.kinds
    return kinds


def gate_name(tensor: str) -> str:
    """The name of the sigmoid whose product with its argument is the swish `tensor`."""
    return f"{tensor}.gate"


class _Names:
    """Walk backend whose value is a tensor's name; it collects the tensors."""

    def __init__(self):
        self.kinds: dict[str, str] = {}

    def note(self, name: str, kind: str = "") -> str:
        self.kinds[name] = kind
        return name

    def conv(self, x, layer):
        for i in range(len(layer.strides) - 1):
            self.note(f"{layer.name}.{i}")
        return self.note(layer.name)

    def act(self, x, kind, name):
        if kind in _FOLDED:
            del self.kinds[x]
        else:
            self.note(x, "" if kind == "sigmoid" else kind)
        if kind == "swish":
            self.note(gate_name(name), SIGMOID)
        return self.note(name, {"hard_sigmoid": GATE, "sigmoid": SIGMOID}.get(kind, ""))

    def pool(self, x, name):
        return self.note(name)

    def mul(self, x, gate, name):
        return self.note(name)

    def add(self, shortcut, x, name):
        return self.note(name)

    def linear(self, x, layer):
        return x
