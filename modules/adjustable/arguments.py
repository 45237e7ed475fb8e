"""Command line options that the scripts of adj_quant share."""
from __future__ import annotations

import argparse

from modules.training.arguments import add_image_arguments, add_supernet_arguments


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Which supernet's checkpoint and which images."""
    add_supernet_arguments(parser)
    parser.add_argument("--checkpoint_path", default="checkpoints/supernet_training",
                        help="checkpoint.pth, or the folder that holds <superspace>-<choice>-align0/checkpoint.pth")
    add_image_arguments(parser)
    parser.add_argument("--valid_size", type=int, default=None,
                        help="validate on this many held-out training images; 0: on the validation set; default: as "
                             "many as training held out")


def make_source(args: argparse.Namespace, device, **calibration):
    """The `SubnetEvaluator` of the fp32 checkpoint that the options name; `calibration`: more of its arguments."""
    from modules.modeling.restore import find_checkpoint
    from modules.search_space.config import SupernetConfig
    from modules.training.subnet_evaluator import SubnetEvaluator

    space = SupernetConfig.from_choice(args.superspace, args.supernet_choice)
    return SubnetEvaluator(
        find_checkpoint(args.checkpoint_path, space, False, args.align_sample), space, quant_mode=False,
        dataset=args.dataset, dataset_path=args.dataset_path, valid_size=args.valid_size, augment=args.augment,
        batch_size=args.batch_size, num_workers=args.data_loader_workers_per_gpu, device=device, **calibration)
