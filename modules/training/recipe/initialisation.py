"""The initialisation `custom` of Zen-NAS."""
from __future__ import annotations

import math

from torch import nn

GAIN = 3.26033  # sqrt(3) 2 / (1 + 0.25^2), the published constant


def initialise(model: nn.Module) -> None:
    """Start the weights of `model`: convolutions Xavier-normal with a gain of 3.26033, linear layers normal with
    deviation 3.26033 sqrt(2 / (in + out)), norms 1 and 0, biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight, GAIN)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, GAIN * math.sqrt(2 / sum(module.weight.shape)))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
