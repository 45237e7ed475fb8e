"""EfficientNet-B0's public weights: torchvision's file, and the ports of TensorFlow's (`_conv_stem`, `_blocks.0` ...).

Both are of a network in this project, `efficientnet_b0` and `efficientnet_b0_tf`, whose padding differs.
"""
from __future__ import annotations

from collections.abc import Iterator

from modules.modeling.net_spec import NetSpec, resolve
from modules.modeling.spec import BlockSpec, ConvSpec, SESpec
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError

_NORM = ("weight", "bias", "running_mean", "running_var")
# A tensor that tells the form, the classifier's bias, and the epsilon of its batch norm.
_FORMS = {"torchvision": ("features.0.0.weight", "classifier.1.bias", 1e-5),
          "tensorflow": ("_conv_stem.weight", "_fc.bias", 1e-3)}
_PORT = {"point_conv1": ("_expand_conv", "_bn0"), "depth_conv": ("_depthwise_conv", "_bn1"),
         "point_conv2": ("_project_conv", "_bn2")}
_PORT_ALONE = {"first_conv": ("_conv_stem", "_bn0"), "final_expand": ("_conv_head", "_bn1")}
_NETWORKS = {"torchvision": "efficientnet_b0", "tensorflow": "efficientnet_b0_tf"}


def foreign_form(weights: dict) -> str | None:
    """Which form the tensors of a file have; None: none of these."""
    return next((form for form, (first, last, _) in _FORMS.items() if first in weights and last in weights), None)


def from_foreign(weights: dict, form: str, config: SupernetConfig, where: str) -> tuple[dict, int, float]:
    """The weights of a supernet's used layers under its names, the number of classes, and the epsilon of batch norm.

    Raises:
        UserError: the network is not the one of the form, or a tensor is missing or of another shape; `where` names the
            file.
    """
    _, last, epsilon = _FORMS[form]
    classes = len(weights[last])
    spec = resolve(config, SubnetSpace(config, config.space.resolutions).extreme(max), classes)
    same = any(isinstance(layer, ConvSpec) and layer.same for _, block in spec.blocks for layer in block.main)
    if same != (form == "tensorflow") or not any(block.args.kind.startswith("MBConv") for _, block in spec.blocks):
        raise UserError(f"{where} has {form} weights of EfficientNet, which are not for {config.superspace}; allowed "
                        f"with --network {_NETWORKS[form]}")
    state = {}
    for ours, theirs in (_torchvision if form == "torchvision" else _ported)(spec):
        if theirs not in weights:
            raise UserError(f"{where} has no tensor {theirs!r} of {config.superspace}")
        state[ours] = weights[theirs]
    return state, classes, epsilon


def _pairs(spec: NetSpec) -> Iterator[tuple[int, str, str, BlockSpec]]:
    """(number of the stage, its name, the block's prefix, block)."""
    for number, (stage, blocks) in enumerate(spec.stages):
        for i, block in enumerate(blocks):
            yield number, stage, f"stages.{stage}.blocks.{i}", block


def _conv(prefix: str, layer: ConvSpec, conv: str, norm: str) -> Iterator[tuple[str, str]]:
    yield f"{prefix}.{layer.name}.{'dwconv' if layer.depthwise else 'conv'}.weight", f"{conv}.weight"
    for leaf in _NORM:
        yield f"{prefix}.{layer.name}.norm.{leaf}", f"{norm}.{leaf}"


def _own(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for leaf in ("weight", "bias"):
        yield f"{ours}.{leaf}", f"{theirs}.{leaf}"


def _torchvision(spec: NetSpec) -> Iterator[tuple[str, str]]:
    """(our name, torchvision's) of every tensor."""
    for number, stage, prefix, block in _pairs(spec):
        within = f"features.{number}"
        if stage not in _PORT_ALONE:
            within += f".{prefix.rpartition('.')[2]}.block"
        for place, layer in enumerate(layer for layer in block.main if layer.used):
            at = within if stage in _PORT_ALONE else f"{within}.{place}"
            if isinstance(layer, ConvSpec):
                yield from _conv(prefix, layer, f"{at}.0", f"{at}.1")
            elif isinstance(layer, SESpec):
                for ours, theirs in (("reduce", "fc1"), ("expand", "fc2")):
                    yield from _own(f"{prefix}.se.fc.{ours}", f"{at}.{theirs}")
            elif stage == "logits":
                yield from _own(f"{prefix}.linear", "classifier.1")


def _ported(spec: NetSpec) -> Iterator[tuple[str, str]]:
    """(our name, that of TensorFlow's ports) of every tensor."""
    number = 0
    for _, stage, prefix, block in _pairs(spec):
        within = f"_blocks.{number}."
        for layer in block.main:
            if isinstance(layer, ConvSpec) and layer.used:
                conv, norm = _PORT_ALONE.get(stage) or (within + name for name in _PORT[layer.name])
                yield from _conv(prefix, layer, conv, norm)
            elif isinstance(layer, SESpec):
                for name in ("reduce", "expand"):
                    yield from _own(f"{prefix}.se.fc.{name}", f"{within}_se_{name}")
            elif stage == "logits":
                yield from _own(f"{prefix}.linear", "_fc")
        number += any(isinstance(layer, SESpec) for layer in block.main)
