"""Command line options that the evaluating scripts share."""
from __future__ import annotations

import argparse


def add_space_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """`--superspace` and `--supernet_choice`, and where their checkpoint is."""
    add_supernet_arguments(parser, several)
    parser.add_argument("--quant_mode", action="store_true", help="int8: use lsq.pth instead of checkpoint.pth")
    parser.add_argument("--resume", default="checkpoints/supernet_training",
                        help="checkpoint file, or the folder that holds <superspace>-<choice>-align0/")


def add_supernet_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Which supernet."""
    parser.add_argument("--superspace", required=True, help="such as onnxw, mobilew, onnxw_tiny")
    parser.add_argument("--supernet_choice", required=True, nargs="+" if several else None,
                        help="block digits, then optionally - and window digits")
    parser.add_argument("--align_sample", action="store_true", help="the supernet was trained with --align_sample")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Data set, batches and calibration."""
    add_image_arguments(parser)
    parser.add_argument("--valid_size", type=int, default=0,
                        help="evaluate on this many training images, held out, instead of the validation set")
    parser.add_argument("--batch_size_per_gpu", type=int, default=32)
    parser.add_argument("--post_bn_calibration_batch_num", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="evaluate on --debug_batches batches only")
    parser.add_argument("--debug_batches", type=int, default=3)


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Where images come from and how they are loaded."""
    parser.add_argument("--dataset", default="", help="digits, folder, CIFAR10 ...; default: that of training")
    parser.add_argument("--dataset_path", "--dataset_dir", default="", help="folder with train/ and val/")
    parser.add_argument("--augment", default="",
                        help="of the calibration images: default or auto_augment_tf; default: that of training")
    parser.add_argument("--data_loader_workers_per_gpu", type=int, default=0)




def make_evaluator(args: argparse.Namespace, space, device, path=None, quant_mode: bool | None = None):
    """The `SubnetEvaluator` the options describe; of the checkpoint `path`, or of the one --resume leads to.

    `quant_mode` None is that of the options.
    """
    from modules.modeling.restore import find_checkpoint
    from modules.training.subnet_evaluator import SubnetEvaluator

    quant_mode = args.quant_mode if quant_mode is None else quant_mode
    return SubnetEvaluator(
        path or find_checkpoint(args.resume, space, quant_mode, args.align_sample), space, quant_mode=quant_mode,
        dataset=args.dataset, dataset_path=args.dataset_path, valid_size=args.valid_size, augment=args.augment,
        batch_size=args.batch_size_per_gpu, calibration_batches=args.post_bn_calibration_batch_num,
        limit_batches=args.debug_batches if args.debug else 0, num_workers=args.data_loader_workers_per_gpu,
        seed=args.seed, device=device)
