"""The optimiser of networks with learned scales, with weight decay by kind of parameter."""
from __future__ import annotations

import torch
from torch import nn

from modules.modeling.ops.lsq_plus import quantizer_scales
from modules.training.config import TrainConfig
from modules.training.recipe.muon import Muon, dense_kernels

LEAST_SHARE = 0.5  # of a quantiser's scale that a step leaves


def decay_groups(model: nn.Module, weight_decay: float, other_decay: float = 0.0) -> list[dict]:
    """Parameter groups: weights of convolutions and linear layers decay by `weight_decay`; norms, biases and quantiser
    parameters by `other_decay`."""
    weights, others = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decays = name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear))
            (weights if decays else others).append(parameter)
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": other_decay}]


def make_optimizer(model: nn.Module, kind: str, lr: float, momentum: float, weight_decay: float,
                   other_decay: float = 0.0, network: nn.Module | None = None) -> torch.optim.Optimizer:
    """The optimiser `kind` (adam, sgd, sgd_nesterov or muon) of `decay_groups`. Muon's last group holds
    the dense kernels of `network`, a part of `model`; None: of `model`.

    A step leaves a quantiser's scale at least half of its value. SGD's step does not know how small a scale is: it
    could take one below 0, the forward pass would put the smallest positive number there, and a layer whose weights are
    all 0 has gradients that are not finite.
    """
    groups = decay_groups(model, weight_decay, other_decay)
    if kind == "adam":
        optimizer = torch.optim.Adam(groups, lr=lr)
    elif kind == "muon":
        kernels = dense_kernels(network or model)
        turned = set(map(id, kernels))
        groups[0]["params"] = [weight for weight in groups[0]["params"] if id(weight) not in turned]
        optimizer = Muon([*groups, {"params": kernels, "turned": True, "weight_decay": 0.0}], lr, momentum)
    else:
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=kind == "sgd_nesterov")
    all_scales, held = list(quantizer_scales(model)), []

    def remember(*_):
        scales = [scale.detach() for scale in all_scales if scale.grad is not None]
        held[:] = [scales, torch._foreach_mul(scales, LEAST_SHARE)] if scales else []

    def hold(*_):
        if held:
            torch._foreach_maximum_(*held)

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(hold)
    return optimizer


def build_optimizer(model: nn.Module, config: TrainConfig, network: nn.Module | None = None) -> torch.optim.Optimizer:
    """The optimiser of a supernet with the settings of `config`; `network` as of `make_optimizer`: the projections for
    a teacher's features, which `model` may hold too, start small and have to grow."""
    nesterov = config.optimizer == "sgd" and config.nesterov and config.momentum > 0
    return make_optimizer(model, "sgd_nesterov" if nesterov else config.optimizer, config.base_lr, config.momentum,
                          config.weight_decay_weight, config.weight_decay_bn_bias, network)
