"""Exponential moving average of a model's weights."""
from __future__ import annotations

import copy

import torch
from torch import nn

from modules.modeling.ops.lsq_plus import PUBLISHED_NAMES, QBase


class WeightAverage:
    """`model` is a copy of the trained model; its parameters are the averages of the trained ones over the steps.

    The decay grows with the number of updates t as (1 + t) / (10 + t) up to `decay`: the start is forgotten.
    """

    def __init__(self, trained: nn.Module, decay: float):
        self.trained, self.decay, self.updates = trained, decay, 0
        self.model = copy.deepcopy(trained).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Add the trained model's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        self._take_started_quantizers()
        averages, weights = list(self.model.parameters()), list(self.trained.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), self.trained.buffers(), strict=True):
            average.copy_(buffer)

    def _take_started_quantizers(self) -> None:
        # A quantiser that has just taken its start values would otherwise be averaged with the defaults before them.
        for average, trained in zip(self.model.modules(), self.trained.modules(), strict=True):
            if isinstance(trained, QBase) and average._started != trained._started:
                for name in PUBLISHED_NAMES.keys() & dict(trained.named_parameters(recurse=False)).keys():
                    getattr(average, name).copy_(getattr(trained, name))
                average._started = list(trained._started)
