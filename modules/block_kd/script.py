"""The common body of train_block_kd.py and lsq_block_kd.py, which differ in defaults and precision."""
from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from modules.block_kd.student.config import BlockKDConfig, add_arguments
from modules.search_space.superspace import get_searched_superspace
from modules.utils.cli import add_local_rank, make_parser
from modules.utils.settings import from_arguments, option

if TYPE_CHECKING:
    import torch

    from modules.block_kd.teacher.backbone import Teacher

TEACHER_FOLDER = "checkpoints/block_kd/teacher_checkpoint"
DEFAULTS = {
    False: {"num_epochs": 5},
    True: {"num_epochs": 1, "eval_batch_size": 50},
}
RATES = {False: (0.005, 0.01, 0.005), True: (0.0025, 0.00025, 0.00025)}  # of the first stage, the middle ones, the last


def add_teacher_arguments(parser: argparse.ArgumentParser, checkpoint_path: str) -> None:
    """Options that choose the teacher."""
    option(parser, "--teacher_arch", "efficientnet-b5", "teacher, such as efficientnet-b0, efficientnet-tiny, "
           "efficientnet-lite0, regnet-y-1.6gf")
    option(parser, "--teacher_checkpoint_path", checkpoint_path, "file that `python -m modules.block_kd.teacher` "
           "wrote, or a published one", shown=checkpoint_path or "none, see --teacher_weights")
    option(parser, "--teacher_weights", "", "weights instead of a checkpoint (fp32 only): imagenet, for "
           "torchvision's; package, for those of an installed one (efficientnet-lite0 ... lite2); or a file")


def open_teacher(arch: str, checkpoint_path: str, weights: str, int8: bool, device: torch.device) -> Teacher:
    """The teacher that the options describe, in eval mode on `device`."""
    from modules.block_kd.teacher import load_teacher

    weights = weights or (None if checkpoint_path else "imagenet")
    return load_teacher(arch, None if weights else checkpoint_path, weights=weights, quant=int8).to(device)


def run_block_kd(doc: str, int8: bool, argv: list[str] | None = None) -> None:
    """Parse the command line and train or evaluate the students."""
    parser = make_parser(doc)
    add_arguments(parser, int8, **DEFAULTS[int8])
    add_teacher_arguments(parser, f"{TEACHER_FOLDER}/lsq.pth" if int8 else "")
    add_local_rank(parser)
    args = parser.parse_args(argv)
    folder = f"checkpoints/block_kd/{args.superspace}"
    if not args.learning_rate_list:
        first, middle, last = RATES[int8]
        stages = get_searched_superspace(args.superspace).searched
        args.learning_rate_list = [first, *[middle] * (len(stages) - 2), last]
    config = from_arguments(BlockKDConfig, args, output_path=folder, **DEFAULTS[int8])
    if config.debug:
        config = replace(config, num_epochs=1)

    from modules.block_kd.student.training import BlockTrainer
    from modules.utils.dist import close, init_distributed

    device = init_distributed(args.local_rank)
    teacher = open_teacher(args.teacher_arch, args.teacher_checkpoint_path, args.teacher_weights, int8, device)
    BlockTrainer(config, teacher, int8=int8, test_only=args.test_only, resume=args.resume, overwrite=args.overwrite,
                 device=device).run()
    close()
