"""A block student: one stage between two projections that fit it to the teacher's widths."""
from __future__ import annotations

import torch
from torch import nn

from modules.block_kd.student.space import StageChoice, stage_config, student_space
from modules.modeling.net_spec import largest_stage, stage_blocks
from modules.modeling.ops.dynamic_op import DynamicQConv
from modules.modeling.supernet import ElasticStage


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
        self.space = student_space(superspace, stage_name, block_choice)
        specs = largest_stage(stage_config(superspace, stage_name, block_choice), stage_name)
        self.stage = ElasticStage(specs)
        self.in_proj = DynamicQConv(teacher_cin, specs[0].args.cin, 1)
        self.out_proj = DynamicQConv(specs[-1].args.cout, teacher_cout, 1)
        self.set_active(self.space.extreme(max))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The estimate of the teacher's output for its input `x` of the stage: (N, teacher_cin, H, W) to (N,
        teacher_cout, H / stride, W / stride), such as (64, 24, 56, 56) to (64, 40, 28, 28)."""
        x = self.in_proj(x, self.active.cin)
        return self.out_proj(self.stage(x, self.active_specs))

    def set_active(self, choice: StageChoice) -> StageChoice:
        """Activate a configuration."""
        self.active = choice
        self.active_specs = stage_blocks(self.space.options.candidate, self.space.table, choice.cin, choice.blocks)
        return choice
