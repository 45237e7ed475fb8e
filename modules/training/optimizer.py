"""The optimiser of a supernet, with weight decay by kind of parameter."""
from __future__ import annotations

import torch
from torch import nn

from modules.training.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or Adam; weights of convolutions and linear layers decay, norms, biases and quantiser parameters do not."""
    weights, others = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decays = name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear))
            (weights if decays else others).append(parameter)
    groups = [{"params": weights, "weight_decay": config.weight_decay_weight},
              {"params": others, "weight_decay": config.weight_decay_bn_bias}]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.base_lr)
    return torch.optim.SGD(groups, lr=config.base_lr, momentum=config.momentum,
                           nesterov=config.nesterov and config.momentum > 0)
