"""The optimiser of a supernet, with weight decay by kind of parameter."""
from __future__ import annotations

import torch
from torch import nn

from modules.training.config import TrainConfig


def decay_groups(model: nn.Module, weight_decay: float, other_decay: float = 0.0) -> list[dict]:
    """Parameter groups: weights of convolutions and linear layers decay by `weight_decay`; norms, biases and quantiser
    parameters by `other_decay`."""
    weights, others = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decays = name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear))
            (weights if decays else others).append(parameter)
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": other_decay}]


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of `config`: SGD or Adam."""
    groups = decay_groups(model, config.weight_decay_weight, config.weight_decay_bn_bias)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.base_lr)
    return torch.optim.SGD(groups, lr=config.base_lr, momentum=config.momentum,
                           nesterov=config.nesterov and config.momentum > 0)
