"""The tensors of a torch subnet, by their names in its graph."""
from __future__ import annotations

from collections.abc import Callable

import torch

from modules.deploy.graph.graph import OUTPUT
from modules.modeling.blocks import TorchOps
from modules.modeling.network import QNetwork, resize
from modules.modeling.placement import INPUT
from modules.modeling.walk import walk


def observe(net: QNetwork, images: torch.Tensor, seen: Callable[[str, torch.Tensor], None]) -> torch.Tensor:
    """Run `net` on images (N, 3, H, W), such as (32, 3, 224, 224). Calls `seen(name, tensor)` for every result and
    returns the logits.

    The next operation may overwrite a tensor: `seen` has to copy a tensor that it keeps.
    """
    with torch.no_grad():
        x = resize(images, net.resolution)
        for prefix, block in net.named_blocks():
            operations = _ObservedOps(block, prefix, seen)
            x = walk(block.spec, operations, operations.tensor(x, INPUT))
    return x


class _ObservedOps(TorchOps):
    """Runs a block and passes on every result."""

    def __init__(self, block, prefix: str, seen):
        super().__init__(block)
        self.prefix, self.seen = prefix, seen

    def _shown(self, name: str, x: torch.Tensor) -> torch.Tensor:
        self.seen(f"{self.prefix}.{name}", x)
        return x

    def linear(self, x, layer):
        x = super().linear(x, layer)
        self.seen(OUTPUT, x)
        return x

    def conv(self, x, layer):
        return self._shown(layer.name, super().conv(x, layer))

    def act(self, x, kind, name):
        return self._shown(name, super().act(x, kind, name))

    def pool(self, x, name):
        return self._shown(name, super().pool(x, name))

    def mul(self, x, gate, name):
        return self._shown(name, super().mul(x, gate, name))

    def add(self, shortcut, x, name):
        return self._shown(name, super().add(shortcut, x, name))
