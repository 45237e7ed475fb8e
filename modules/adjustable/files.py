"""The published files: initial_thresholds.json (ranges), model_info.json (counts) and quant_info.json (bits).

    initial_thresholds.json  {"Conv/weights": {"min": [...], "max": [...]}, "expanded_conv_0/dws/output": ...}
    model_info.json          {"Conv": [{"total": parameters}, {"total": MACs}], "expanded_conv": [{"dws": ...}, ...]}
    quant_info.json          {"Conv": {"weight": [8, 7, ...], "act": [...]}, "expanded_conv_0": {"dws": {...}}, ...}

Names of layers are those of `placement`. A single number in place of a list stands for all channels. Of the published
files' 1001 classes the first is TensorFlow's background, which networks of 1000 classes leave out.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from modules.adjustable.placement import GATE, PARTS, Placement, layer_places
from modules.adjustable.scoring.cost import IMAGENET_CLASSES, LayerCost
from modules.deploy.graph.graph import OUTPUT
from modules.utils.errors import UserError
from modules.utils.files import atomic_write
from modules.utils.json_files import read_json

THRESHOLDS, QUANT_INFO, MODEL_INFO = "initial_thresholds.json", "quant_info.json", "model_info.json"
_MOST = 32  # bits
_FIRST, _LOGITS, _BIASES = "expanded_conv", "Logits", "total_bias"  # of model_info.json, where quant_info has others
Ranges = dict[str, tuple[np.ndarray, np.ndarray]]  # minimum and maximum of each channel


def _write(path: str | Path, content: Mapping) -> None:
    """A line for each key."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    with atomic_write(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


# -- bits -----------------------------------------------------------------------------------------------------------

def write_quant_info(path: str | Path, placement: Placement, weights: dict[str, list], acts: dict[str, list]) -> None:
    """Bits of every channel: of `weights` by their layer, of `acts` by their tensor."""
    content: dict[str, dict] = {}
    for layer, place in layer_places(placement.nodes).items():
        act = placement.acts.get(layer)
        bits = {"weight": weights[layer], "act": acts[act] if act else 0.0}
        if place.part:
            content.setdefault(place.block, {})[place.part] = bits
        else:
            content[place.block] = bits
    for parts in content.values():
        if "dws" in parts and "expand" not in parts:
            parts["expand"] = {"weight": 0.0, "act": 0.0}
    _write(path, content)


def read_quant_info(path: str | Path, placement: Placement, channels: dict[str, int]
                    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The inverse of `write_quant_info`: bits of weights and of tensors, (channels,) float32 each.

    Args:
        channels: of every tensor.

    Raises:
        UserError: a layer is missing, has another number of channels, or bits that are not 1 to 32.
    """
    where, weights, acts = f"bits {str(path)!r}", {}, {}
    content = read_json(path, "bits", {str: dict})
    for layer, place in layer_places(placement.nodes).items():
        entry = content.get(place.block, {})
        entry = entry.get(place.part, {}) if place.part else entry
        act = placement.acts.get(layer)
        for key, tensor, kept in (("weight", layer, weights), *((("act", act, acts),) if act else ())):
            at = f"{place.scope.replace('/', '.')}.{key}"
            bits = _channels(entry, key, channels[tensor], where, at)
            outside = bits[(bits < 1) | (bits > _MOST)]
            if len(outside):
                raise UserError(f"{where}: {at} has {outside[0]:g} bits; allowed: 1 to {_MOST}")
            kept[tensor] = bits
    return weights, acts


def _channels(entry, key: str, count: int, where: str, at: str) -> np.ndarray:
    """(count,) float32 of a list of so many numbers, or of one; of the classes of ImageNet also one more."""
    value = entry.get(key) if isinstance(entry, dict) else None
    try:
        values = np.atleast_1d(np.array(value, np.float32))
    except (TypeError, ValueError):
        values = np.array([])
    if count == IMAGENET_CLASSES and values.shape == (count + 1,):
        values = values[1:]
    if value is None or values.ndim > 1 or len(values) not in (1, count) or not np.isfinite(values).all():
        counted = values.ndim == 1 and len(values) not in (0, 1, count)
        found = "missing" if value is None else f"{len(values)} numbers" if counted else "something else"
        raise UserError(f"{where}: {at} is {found}; expected {count} numbers, one for each channel (in the last layer: "
                        "class), or one for all")
    return np.broadcast_to(values, count).copy()


# -- ranges ---------------------------------------------------------------------------------------------------------

def _scopes(placement: Placement) -> tuple[dict[str, str], dict[str, str]]:
    """The key of every layer's weight, and of every quantised tensor, in initial_thresholds.json."""
    places = layer_places(placement.nodes)
    weights = {layer: f"{place.scope}/weights" for layer, place in places.items()}
    # The published file puts the tensor after a gate outside of the gate's own scope.
    outputs = {tensor: f"{place.block if place.part == GATE else place.scope}/output"
               for layer, tensor in placement.acts.items() if (place := places[layer])}
    return weights, outputs | {tensor: f"{places[tensor].scope}/swish_input" for tensor in placement.fixed
                               if tensor in places}


def write_thresholds(path: str | Path, placement: Placement, weights: Ranges, tensors: Ranges) -> None:
    """Minimum and maximum of every channel of the weights, by their layer, and of the tensors."""
    content = {}
    for keys, ranges in zip(_scopes(placement), (weights, tensors), strict=True):
        content |= {key: {"min": ranges[name][0].tolist(), "max": ranges[name][1].tolist()}
                    for name, key in keys.items() if name in ranges}
    _write(path, content)


def read_thresholds(path: str | Path, placement: Placement, weights: dict[str, int], tensors: dict[str, int]
                    ) -> tuple[Ranges, Ranges]:
    """The inverse of `write_thresholds` for those of the given names, each with its number of channels. UserError for a
    missing entry, one of another number of channels, or a minimum above its maximum."""
    where, content = f"ranges {str(path)!r}", read_json(path, "ranges", {str: dict})

    def ends(key: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        low, high = (_channels(content.get(key), end, count, where, f"{key}.{end}") for end in ("min", "max"))
        if (low > high).any():
            at = int((low > high).argmax())
            raise UserError(f"{where}: {key} of channel {at} has a minimum of {low[at]:g}, above its maximum of "
                            f"{high[at]:g}")
        return low, high

    return tuple({name: ends(key, needed[name]) for name, key in keys.items() if name in needed}
                 for keys, needed in zip(_scopes(placement), (weights, tensors), strict=True))


# -- counts ---------------------------------------------------------------------------------------------------------

def _info_keys(placement: Placement) -> dict[str, tuple[str, str]]:
    """(block, part) of every layer in model_info.json."""
    keys = {}
    for layer, place in layer_places(placement.nodes).items():
        block = _LOGITS if layer == OUTPUT else _FIRST if place.block == f"{_FIRST}_0" else place.block
        keys[layer] = block, place.part or "total"
    return keys


def write_model_info(path: str | Path, placement: Placement, layers: list[LayerCost], biases: int) -> None:
    """Parameters and multiply-accumulates of every layer, and the number of folded biases."""
    content: dict[str, list[dict]] = {}
    for layer, (block, part) in zip(layers, _info_keys(placement).values(), strict=True):
        for counts, number in zip(content.setdefault(block, [{}, {}]), (layer.parameters, layer.macs), strict=True):
            counts[part] = number
    for both in content.values():
        for counts in both:
            if "total" not in counts:
                absent = {"expand": 0} if set(counts) <= set(PARTS.values()) and "expand" not in counts else {}
                total = sum(counts.values())
                counts |= absent | {"total": total}
    _write(path, content | {_BIASES: biases})


def read_model_info(path: str | Path, placement: Placement, layers: list[LayerCost]) -> tuple[list[LayerCost], int]:
    """`layers` with the counts of the file, and its number of biases (0 where it has none, as older files).

    Raises:
        UserError: a layer is missing, or a count is no number of 0 or more.
    """
    content, where, read = read_json(path, "counts"), f"counts {str(path)!r}", []
    for layer, (block, part) in zip(layers, _info_keys(placement).values(), strict=True):
        both = content.get(block)
        try:
            parameters, macs = (int(counts[part]) for counts in both)
        except (TypeError, ValueError, KeyError):
            raise UserError(f"{where}: {block} has no two numbers {part!r}, of parameters and of "
                            "multiply-accumulates") from None
        if min(parameters, macs) < 0:
            raise UserError(f"{where}: {block}.{part} is {min(parameters, macs)}; expected 0 or more")
        read.append(replace(layer, parameters=parameters, macs=macs))
    biases = content.get(_BIASES, 0)
    if not isinstance(biases, int) or biases < 0:
        raise UserError(f"{where}: {_BIASES} is {biases!r}; expected a whole number, 0 or more")
    return read, biases
