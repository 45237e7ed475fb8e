"""What train_block_kd.py and lsq_block_kd.py do; they differ in defaults and precision."""
from __future__ import annotations

import argparse

from modules.block_kd.student.config import add_arguments, config_from_arguments
from modules.utils.cli import add_local_rank, make_parser

TEACHER_FOLDER = "checkpoints/block_kd/teacher_checkpoint"
DEFAULTS = {
    False: {"num_epochs": 5, "learning_rate_list": (0.005, 0.01, 0.01, 0.01, 0.01, 0.005)},
    True: {"num_epochs": 1, "learning_rate_list": (0.0025,) + (0.00025,) * 5, "eval_batch_size": 50},
}


def add_teacher_arguments(parser: argparse.ArgumentParser, checkpoint_path: str) -> None:
    """Which teacher."""
    parser.add_argument("--teacher_arch", default="efficientnet-b5", help="such as efficientnet-b0, regnet_y_1_6gf")
    parser.add_argument("--teacher_checkpoint_path", default=checkpoint_path,
                        help="file that `python -m modules.block_kd.teacher` wrote, or a published one "
                             f"(default: {checkpoint_path or 'none, see --teacher_weights'})")
    parser.add_argument("--teacher_weights", default="", help="instead of a checkpoint: imagenet, for torchvision's "
                                                              "weights, or a torchvision file (fp32 only)")


def load_teacher_from(args: argparse.Namespace, int8: bool, device):
    """The teacher that the options describe, in eval mode on `device`."""
    from modules.block_kd.teacher import load_teacher

    weights = args.teacher_weights or (None if args.teacher_checkpoint_path else "imagenet")
    return load_teacher(args.teacher_arch, None if weights else args.teacher_checkpoint_path, weights=weights,
                        quant=int8).to(device)


def run_block_kd(doc: str, int8: bool) -> None:
    """Parse the command line and train or evaluate the students."""
    parser = make_parser(doc)
    add_arguments(parser, int8, output_path="", **DEFAULTS[int8])
    add_teacher_arguments(parser, f"{TEACHER_FOLDER}/lsq.pth" if int8 else "")
    add_local_rank(parser)
    args = parser.parse_args()
    args.output_path = args.output_path or f"checkpoints/block_kd/{args.superspace}"
    config = config_from_arguments(args)

    from modules.block_kd.student.training import BlockTrainer
    from modules.utils.dist import close, init_distributed

    device = init_distributed(args.local_rank)
    BlockTrainer(config, load_teacher_from(args, int8, device), int8=int8, test_only=args.test_only,
                 resume=args.resume, overwrite=args.overwrite, device=device).run()
    close()
