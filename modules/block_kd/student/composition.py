"""Losses of whole subnets: block students one behind the other, each of which gets the output of the one before."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch

from modules.block_kd.student.evaluation import LOSSES, Candidate, mean_losses
from modules.block_kd.student.features import TeacherFeatures
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.student.space import StageChoice
from modules.block_kd.teacher.backbone import Teacher
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.utils.errors import UserError

Chain = Sequence[Candidate]  # configurations of students of different stages, in the order they run


def stage_choices(config: SupernetConfig, subnet: SubnetChoiceConfig) -> list[tuple[str, int, StageChoice]]:
    """(stage, block, configuration of its student) of every searched stage of `subnet`, which belongs to `config`. The
    input width of a stage is the last width of the stage before."""
    searched = dict(zip((stage.name for stage in config.space.searched), config.blocks, strict=True))
    found, width = [], 0
    for stage, blocks in zip(config.space.elastic, subnet.stages, strict=True):
        if stage.name in searched:
            found.append((stage.name, searched[stage.name], StageChoice(width, blocks)))
        width = blocks[-1].width
    return found


def make_chain(students: Mapping[tuple[str, int], StagePlusProj], config: SupernetConfig,
               subnet: SubnetChoiceConfig) -> list[Candidate]:
    """The students of `subnet`, which belongs to `config`; UserError if one is not among `students` (by stage and
    block)."""
    chain = []
    for stage, block, choice in stage_choices(config, subnet):
        if (stage, block) not in students:
            known = ", ".join(f"{name}_{i}" for name, i in students) or "none"
            raise UserError(f"a subnet of {config} needs the block student {stage}_{block}; given: {known}")
        chain.append(Candidate(students[stage, block], choice, subnet.resolution))
    return chain


def composed_losses(chains: Sequence[Chain], teacher: Teacher, calibration: Iterable[torch.Tensor], batches: Iterable,
                    loss_fn: str, device: torch.device) -> list[float]:
    """Loss of the last student of each chain against the teacher, behind all students before it.

    The first student gets the teacher's input of its stage, every other one the output of the student before. Segments
    of the teacher between two students run on that output: `cifarw_short` has no stage2, so the teacher's stage2 runs
    between the students of stage1 and stage3. Batch norm is calibrated on these inputs, stage after stage. The own
    statistics of the students are overwritten.

    Args:
        chains: as of `make_chain`; all begin at the same stage and end at the same one.
        teacher: in eval mode on `device`, as the students.
        calibration: batches of training images (N, 3, H, W), such as (64, 3, 96, 96), at least two images each. Their
            features are held: one batch after the other for each stage.
        batches: batches of (images, labels) to measure on; read once.
        loss_fn: one of LOSS_FUNCTIONS.

    Returns:
        Mean losses over all images of all processes, one for each of `chains`. For "nsr" 0 is the teacher's own output,
        and 1 is about as good as the mean of each of its channels.

    Raises:
        UserError: students that are not in the order of the teacher's stages; no images.
    """
    first, last = (chains[0][end].student.space.table.name for end in (0, -1))

    def features(images: torch.Tensor) -> TeacherFeatures:
        return TeacherFeatures(teacher, first, images.to(device), last)

    for chain in chains:
        _check_order(chain, teacher)
        for candidate in chain:
            candidate.student.eval()
    known = [features(images) for images in calibration]
    with torch.no_grad():
        for chain in chains:
            _calibrate(chain, teacher, [f.at(chain[0].resolution)[0] for f in known])
        for images, _ in batches:
            found = features(images)
            for chain in chains:
                x, target = found.at(chain[0].resolution)
                for before, after in pairwise(chain):
                    x = _between(before, after, teacher, x)
                chain[-1].measure(x, target, LOSSES[loss_fn])
    return mean_losses([chain[-1] for chain in chains], device)


def _calibrate(chain: Chain, teacher: Teacher, inputs: list[torch.Tensor]) -> None:
    """Collect the statistics of every student on the outputs of the one before."""
    for i, candidate in enumerate(chain):
        if i:
            inputs = [_between(chain[i - 1], candidate, teacher, x) for x in inputs]
        for x in inputs:
            candidate.calibrate(x)
        candidate.merge()


def _between(before: Candidate, after: Candidate, teacher: Teacher, x: torch.Tensor) -> torch.Tensor:
    """The input of `after` for the input `x` of `before`."""
    x = before.output(x)
    for segment in teacher.segments[_position(before, teacher) + 1 : _position(after, teacher)]:
        x = teacher.run_segment(segment, x)
    return x


def _position(candidate: Candidate, teacher: Teacher) -> int:
    return teacher.segments.index(candidate.student.space.table.name)


def _check_order(chain: Chain, teacher: Teacher) -> None:
    for before, after in pairwise(chain):
        if _position(before, teacher) >= _position(after, teacher):
            raise UserError(f"a student of {after.student.space.table.name} behind one of "
                            f"{before.student.space.table.name}; allowed: the order {', '.join(teacher.stages)}")
