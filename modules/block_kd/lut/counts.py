"""The counting rule behind the block table's MFLOPs and Mparams columns."""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from modules.block_kd.student.space import stage_config
from modules.modeling.complexity import LayerCount, count_block, with_sizes
from modules.modeling.net_spec import stage_blocks, stage_choice
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError


def published_float32(counts: Iterable[LayerCount]) -> tuple[float, float]:
    """Sums of multiply-accumulates and parameters as in the published tables, both in millions.

    The published counter adds in float32: per layer the sizes of its tensors one by one, then the layers in the order
    of registration. The division by a million is in float64. The exact sums differ by up to 1e-4 million.
    """
    macs, parameters = np.float32(0), np.float32(0)
    for count in counts:
        macs += np.float32(count.macs)
        layer = np.float32(0)
        for size in count.parameters:
            layer += np.float32(size)
        parameters += layer
    return float(macs) / 1e6, float(parameters) / 1e6


def count_stage(superspace: str, stage_name: str, block_choice: int, encoding: str,
                input_shape: tuple[int, int, int, int]) -> tuple[float, float]:
    """MFLOPs and Mparams columns of one block-table row.

    Args:
        superspace: name of a superspace.
        stage_name: a searched stage, such as "stage3".
        block_choice: index of the candidate block.
        encoding: the row's blocks, `k#w#e_k#w#e...`.
        input_shape: (1, channels, height, width) of the stage's input.

    Returns:
        Multiply-accumulates and parameters in millions; print with 4 decimals to get the published figures.

    Raises:
        UserError: an unknown superspace or stage, a block choice, number of blocks or value outside the space.
    """
    table, config = get_superspace(superspace).stage(stage_name), stage_config(superspace, stage_name, block_choice)
    candidate, choices = stage_choice(config, stage_name, encoding)
    if len(choices) not in table.depths:
        raise UserError(f"{len(choices)} blocks in {encoding!r} of {stage_name} of {superspace}; allowed: "
                        f"{', '.join(map(str, table.depths))}")
    _, cin, *hw = input_shape
    blocks = with_sizes(stage_blocks(candidate, table, cin, choices), tuple(hw))
    return published_float32([count for block, size in blocks for count in count_block(block, size)[0]])
