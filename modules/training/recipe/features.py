"""Features of a network at chosen strides: the output of its last block there."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from modules.modeling.net_spec import NetSpec
from modules.modeling.supernet import ElasticStage
from modules.search_space.superspace import HEAD_STAGES
from modules.utils.errors import UserError


def last_blocks(spec: NetSpec, strides: Sequence[int], network: str) -> dict[str, int]:
    """Name (`<stage>.<index>`) and output channels of the last block at each of `strides`, such as (16, 32), before the
    head; UserError for a stride that the network does not have; `network` names it there."""
    found, stride = {}, 1
    for stage, blocks in spec.stages:
        for i, block in enumerate(blocks if stage not in HEAD_STAGES else ()):
            stride *= block.args.stride
            found[stride] = f"{stage}.{i}", block.args.cout
    for wanted in strides:
        if wanted not in found:
            raise UserError(f"--teacher_strides {wanted}: {network} has no features there; allowed: "
                            f"{', '.join(map(str, found))}")
    return dict(found[wanted] for wanted in strides)


@contextmanager
def block_outputs(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """A dict of the outputs of the blocks `names` of a supernet or subnet, float32, filled by each run."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name, module, inputs, output) -> None:
        seen[name] = output.float()

    hooks = [_block(net, name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _block(net: nn.Module, name: str) -> nn.Module:
    stage, _, index = name.partition(".")
    blocks = net.stages[stage]
    return (blocks.blocks if isinstance(blocks, ElasticStage) else blocks)[int(index)]
