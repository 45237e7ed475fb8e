"""Command line options that the scripts of all formats of model files share."""
from __future__ import annotations

import argparse


def add_export_arguments(parser: argparse.ArgumentParser, folder: str, output: str) -> None:
    """The subnets of `folder`/input.csv, where their checkpoints are, and where the files go by default."""
    parser.add_argument("--input", default=f"{folder}/input.csv", help="lines superspace,choice,subnet")
    parser.add_argument("--output_dir", default=output)
    parser.add_argument("--align_sample", action="store_true", help="the supernet was trained with --align_sample")
    parser.add_argument("--resume", default="checkpoints/supernet_training",
                        help="folder that holds <superspace>-<choice>-align0/")
    parser.add_argument("--quant_mode", action="store_true", help="export the int8 files only")
    parser.add_argument("--skip_weights", action="store_true", help="random weights, no checkpoint, no data")


def add_predict_arguments(parser: argparse.ArgumentParser, threads: str) -> None:
    """Images and the model that classifies them; `threads` is the flag for the number of threads."""
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--top", type=int, default=5, help="classes to name")
    parser.add_argument(threads, dest="threads", type=int, default=1)


def add_accuracy_arguments(parser: argparse.ArgumentParser, threads: str) -> None:
    """The model, and the data set that it is evaluated on; `threads` is the flag for the number of threads."""
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--dataset", default="", help="digits, folder, CIFAR10 ...; default: the one in the file")
    parser.add_argument("--dataset_path", default="", help="folder with train/ and val/")
    parser.add_argument("--batch_size", type=int, default=50, help="images that are loaded at a time")
    parser.add_argument(threads, dest="threads", type=int, default=1)
