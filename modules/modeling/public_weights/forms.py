"""Weights that others published, of networks that are in this project too."""
from __future__ import annotations

import torch

from modules.modeling.net_spec import resolve
from modules.modeling.public_weights import tensorflow, torchvision
from modules.modeling.public_weights.form import Form
from modules.search_space.config import SupernetConfig
from modules.search_space.networks.rows import network_of
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError

FORMS = (*torchvision.FORMS, *tensorflow.FORMS)


def find_form(weights: dict) -> Form | None:
    """Which form the tensors of a file have; None: none of these."""
    return next((form for form in FORMS if form.fits(weights)), None)


def from_foreign(weights: dict, form: Form, config: SupernetConfig, where: str) -> dict:
    """The weights of a supernet's used layers under its names.

    Raises:
        UserError: the network is not one of the form's, or a tensor is missing; `where` names the file.
    """
    if network_of(config.superspace).removesuffix("_cifar") not in form.networks:
        allowed = f"allowed with --network {', '.join(form.networks)}" if form.networks else (
            f"no network here has that structure; allowed: {', '.join(n for f in FORMS for n in f.networks)}")
        raise UserError(f"{where} has {form.what}, which are not for {config.superspace}; {allowed}")
    spec = resolve(config, SubnetSpace(config, config.space.resolutions).extreme(max), len(weights[form.classifier]))
    state = {ours: _tensor(weights, theirs, config, where) for ours, theirs in form.pairs(spec)}
    if form.hidden:
        ours, theirs = form.hidden
        matrix, bias = (_tensor(weights, f"{theirs}.{leaf}", config, where) for leaf in ("weight", "bias"))
        # A batch norm that only adds the bias.
        state |= {f"{ours}.conv.weight": matrix[:, :, None, None], f"{ours}.norm.bias": bias,
                  f"{ours}.norm.weight": torch.ones_like(bias), f"{ours}.norm.running_mean": torch.zeros_like(bias),
                  f"{ours}.norm.running_var": torch.full_like(bias, 1 - form.epsilon)}
    return state


def _tensor(weights: dict, name: str, config: SupernetConfig, where: str) -> torch.Tensor:
    if name not in weights:
        raise UserError(f"{where} has no tensor {name!r} of {config.superspace}")
    return weights[name]
