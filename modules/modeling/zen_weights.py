"""Weights of Zen-NAS's networks under their published names, such as module_list.1.module_list.0.proj.0.weight."""
from __future__ import annotations

from itertools import islice

from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockSpec, SESpec
from modules.search_space.networks.structure import Structure
from modules.utils.errors import UserError

NORM_EPS = 1e-3  # of every norm in the published networks
_CLASSIFIER = "fc_linear.netblock"
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def is_published(weights: dict) -> bool:
    """Whether named tensors belong to a published network."""
    return f"{_CLASSIFIER}.weight" in weights


def published_classes(weights: dict) -> int:
    """Width of the classifier."""
    return len(weights[f"{_CLASSIFIER}.weight"])


def published_names(structure: Structure, spec: NetSpec) -> dict[str, str]:
    """The published name of every tensor of the network `spec` of `structure`, by `<stage>.<index>.<tensor>`."""
    names, blocks = {}, iter(spec.blocks)
    for number, super_block in enumerate(structure.blocks):
        inside = f"module_list.{number}.module_list"
        for place, (name, block) in enumerate(islice(blocks, len(super_block.units()))):
            if super_block.residual:
                names |= _unit(name, block, f"{inside}.{2 * place}")  # a ReLU follows it
            else:
                names |= _conv(f"{name}.conv", False, f"{inside}.{3 * place}", f"{inside}.{3 * place + 1}", ".netblock")
    return names | {f"logits.0.linear.{kind}": f"{_CLASSIFIER}.{kind}" for kind in ("weight", "bias")}


def _unit(name: str, block: BlockSpec, at: str) -> dict[str, str]:
    """Names of the residual unit in the module `at`."""
    names, place = {}, 0
    for layer in block.main:
        inner = f"{at}.module_list.{place}"
        if isinstance(layer, SESpec):
            inner += ".netblock"
            names |= _conv(f"{name}.{layer.reduce.name}", False, f"{inner}.1", f"{inner}.2")
            names |= _conv(f"{name}.{layer.expand.name}", False, f"{inner}.4", f"{inner}.5")
            place += 1
        else:
            names |= _conv(f"{name}.{layer.name}", layer.depthwise, inner, f"{at}.module_list.{place + 1}", ".netblock")
            place += 3 if layer.act else 2
    if block.downsample and block.downsample.used:
        names |= _conv(f"{name}.downsample", False, f"{at}.proj.0", f"{at}.proj.1")
        names[f"{name}.downsample.conv.bias"] = f"{at}.proj.0.bias"
    return names


def _conv(name: str, depthwise: bool, conv: str, norm: str, end: str = "") -> dict[str, str]:
    kind = "dwconv" if depthwise else "conv"
    return {f"{name}.{kind}.weight": f"{conv}{end}.weight"} | {f"{name}.norm.{t}": f"{norm}{end}.{t}" for t in _NORM}


def from_published(weights: dict, structure: Structure, model, path) -> dict:
    """The state of `model` (a supernet or a subnet of `structure`) with published `weights`. A published network has no
    quantisers; the model's own stay.

    Raises:
        UserError: `weights` lack a tensor, or have one that the network lacks; `path` names the file.
    """
    names = _names(structure, model)
    for there, known, what in ((names.values(), weights, "lacks"), (weights, set(names.values()), "has")):
        odd = next((name for name in there if name not in known), None)
        if odd:
            raise UserError(f"checkpoint {str(path)!r} does not fit the network: it {what} {odd}")
    return model.state_dict() | {ours: weights[theirs] for ours, theirs in names.items()}


def to_published(model, structure: Structure) -> dict:
    """The tensors of `model`, a supernet or a subnet of `structure`, under their published names."""
    state = model.state_dict()
    return {theirs: state[ours] for ours, theirs in _names(structure, model).items()}


def _names(structure: Structure, model) -> dict[str, str]:
    """Published names by those in the state of `model`."""
    elastic = hasattr(model, "active_spec")
    names = {}
    for ours, theirs in published_names(structure, model.active_spec if elastic else model.spec).items():
        stage, index, rest = ours.split(".", 2)
        names[f"stages.{stage}.{'blocks.' if elastic else ''}{index}.{rest}"] = theirs
    return names
