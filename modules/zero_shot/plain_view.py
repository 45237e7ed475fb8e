"""The part of a network for zero-shot scores: the blocks before the global mean, without shortcuts and SE."""
from __future__ import annotations

from dataclasses import replace

from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockSpec, PoolSpec, SESpec


def plain_view(spec: NetSpec, shortcuts: bool = False) -> NetSpec:
    """`spec` without squeeze-and-excitation (random weights saturate its gates) and, by default, without shortcuts. The
    activation after a sum stays."""
    def plain(block: BlockSpec) -> BlockSpec:
        main = tuple(layer for layer in block.main if not isinstance(layer, SESpec))
        return replace(block, main=main) if shortcuts else replace(block, main=main, residual=False, downsample=None)

    return NetSpec(tuple((stage, tuple(map(plain, blocks))) for stage, blocks in spec.stages), spec.resolution)


def body_length(spec: NetSpec) -> int:
    """Number of blocks before the one with the global mean."""
    pooled = [i for i, (_, block) in enumerate(spec.blocks) if any(isinstance(layer, PoolSpec) for layer in block.main)]
    return pooled[0] if pooled else len(spec.blocks)
