"""Subnets trained on, each alone, from the weights of their supernet and with a teacher: fp32, then int8."""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from modules.modeling.restore import find_checkpoint, record_in
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.published import subnet_id
from modules.search_space.reference import reference_to
from modules.search_space.subnet_space import SubnetSpace
from modules.training.config import TrainConfig
from modules.training.trainer import SupernetTrainer
from modules.utils.checkpoint import load_checkpoint
from modules.utils.errors import UserError
from modules.utils.runs import check_free


def tune(config: TrainConfig, subnets: Sequence[tuple[SupernetConfig, SubnetChoiceConfig]], supernet: str | Path, *,
         resume: bool = False, overwrite: bool = False, device: torch.device | None = None) -> Iterator[Path]:
    """Train each of `subnets` in fp32, then in int8; yields the folder of both checkpoints. What is refused for one of
    them is refused before the first training.

    Args:
        config: of the fp32 training; `models_save_dir` gets a folder for each subnet. Without a teacher it is the
            largest subnet of the supernet, whose logits are learnt; "none" stands for no teacher. Answers given once
            serve all subnets.
        supernet: the fp32 checkpoint, or the folder of supernets.
        resume, overwrite, device: as of `SupernetTrainer`.
    """
    trainers = deque()
    for space, subnet in subnets:
        ours = _settings(config, space, subnet, supernet)
        both = ours, replace(ours, init_checkpoint="").for_quantization()
        trainers += [SupernetTrainer(c, space, quant_mode=quant_mode, resume=resume, overwrite=overwrite, device=device)
                     for c, quant_mode in zip(both, (False, True), strict=True)]
    check_free(trainer.files for trainer in trainers)
    while trainers:  # a trained one is freed, with its data
        trainer = trainers.popleft()
        trainer.run()
        if trainer.quant_mode:
            yield trainer.folder


def _settings(config: TrainConfig, space: SupernetConfig, subnet: SubnetChoiceConfig,
              supernet: str | Path) -> TrainConfig:
    """`config` with the subnet, its weights, and its teacher.

    Images are loaded as large as those of the supernet, for the teacher, and batch norm was trained on such.
    """
    if config.teacher_once:  # one teacher answers for all subnets
        config = replace(config, teacher_answers_dir=config.teacher_answers_dir or config.models_save_dir)
    path = find_checkpoint(supernet, space, False, config.align_sample)
    checkpoint = load_checkpoint(path, "checkpoint of the supernet (--checkpoint_path)")
    record = record_in(checkpoint)
    if record and record.quant:
        raise UserError(f"checkpoint {str(path)!r} of the supernet (--checkpoint_path) is an INT8 one; expected the "
                        "checkpoint.pth of its fp32 training")
    resolutions = record.resolutions if record else space.space.resolutions
    SubnetSpace(space, resolutions).check(subnet)
    config = replace(
        config, subnet_choice=str(subnet), init_checkpoint=str(path), resolutions=resolutions,
        models_save_dir=str(Path(config.models_save_dir) / subnet_id(space, subnet)))
    if config.teacher == ("none",):
        return replace(config, teacher=())
    if not config.teacher:
        largest = SubnetSpace(space, resolutions).extreme(max)
        return replace(config, teacher=(reference_to(space, largest),),
                       teacher_checkpoint=config.teacher_checkpoint or str(path), teacher_strides=())
    if not config.teacher_checkpoint and path == Path(supernet):
        raise UserError(f"--teacher {' '.join(config.teacher)} without --teacher_checkpoint; with a file as "
                        "--checkpoint_path it has no default")
    return replace(config, teacher_checkpoint=config.teacher_checkpoint or str(supernet))
