"""A block student: one stage between two projections that fit it to the teacher's widths."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from modules.modeling.net_spec import largest_stage, stage_blocks
from modules.modeling.ops.dynamic_op import DynamicQConv
from modules.modeling.supernet import ElasticStage
from modules.search_space.config import BlockChoice, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace


@dataclass(frozen=True)
class StageChoice:
    """What a student runs: the width its input projection gives, and the blocks of its stage."""

    cin: int
    blocks: tuple[BlockChoice, ...]


class StagePlusProj(nn.Module):
    """Stage `stage_name` with candidate `block_choice` on its full width list, between two 1 x 1 convolutions.

    Args:
        superspace: name of a superspace.
        stage_name: a searched stage.
        block_choice: index of the candidate block.
        teacher_cin, teacher_cout: channels of the teacher's input to and output of the stage.
    """

    def __init__(self, superspace: str, stage_name: str, block_choice: int, teacher_cin: int, teacher_cout: int):
        super().__init__()
        space = get_superspace(superspace)
        searched = [s.name for s in space.searched]
        self.table = space.stage(stage_name)
        self.config = SupernetConfig(superspace, tuple(block_choice if s == stage_name else 0 for s in searched),
                                     (-1,) * len(searched))
        self.options = next(s for s in SubnetSpace(self.config, (0,)).stages if s.name == stage_name)
        self.input_widths = space.previous(stage_name).widths
        specs = largest_stage(self.config, stage_name)
        self.stage = ElasticStage(specs)
        self.in_proj = DynamicQConv(teacher_cin, specs[0].args.cin, 1)
        self.out_proj = DynamicQConv(specs[-1].args.cout, teacher_cout, 1)
        self.set_active(StageChoice(max(self.input_widths), self.options.extreme(max)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The teacher's input of the stage (N, teacher_cin, H, W) to an estimate of its output."""
        x = self.in_proj(x, self.active.cin)
        return self.out_proj(self.stage(x, self._specs))

    def set_active(self, choice: StageChoice) -> StageChoice:
        """Activate a configuration."""
        self.active = choice
        self._specs = stage_blocks(self.options.candidate, self.table, choice.cin, choice.blocks)
        return choice
