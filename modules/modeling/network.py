"""A single subnet as a network of its own."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.blocks import Block
from modules.modeling.net_spec import NetSpec


def resize(x: torch.Tensor, resolution: int) -> torch.Tensor:
    """Images (N, C, H, W) at `resolution` x `resolution` pixels: bicubic, corners not aligned, no antialiasing.
    Example: (8, 3, 256, 256) to (8, 3, 160, 160)."""
    if x.shape[-1] == resolution and x.shape[-2] == resolution:
        return x
    return F.interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False)


class QNetwork(nn.Module):
    """The network of `spec`, with exactly its layers. Inputs of another size are resized to `resolution` pixels."""

    def __init__(self, spec: NetSpec):
        super().__init__()
        self.spec = spec
        self.resolution = spec.resolution
        self.stages = nn.ModuleDict({
            stage: nn.ModuleList(Block(block, elastic=False) for block in blocks) for stage, blocks in spec.stages})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W) to logits (N, classes), such as (8, 3, 224, 224) to (8, 1000)."""
        x = resize(x, self.resolution)
        for _, block in self.named_blocks():
            x = block(x)
        return x

    def named_blocks(self):
        """Pairs (`<stage>.<index>`, block) in order of execution."""
        for stage, blocks in self.stages.items():
            for i, block in enumerate(blocks):
                yield f"{stage}.{i}", block
