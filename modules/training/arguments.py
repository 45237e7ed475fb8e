"""Options of the evaluating scripts, and the evaluator from them."""
from __future__ import annotations

import argparse
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modules.datasets.transforms import AUGMENTS
from modules.search_space.config import SupernetConfig
from modules.search_space.reference import NETWORK, Network, read_network
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.utils.settings import SEED, TRAIN_BATCH, WORKERS, Setting, check_settings, option, setting

if TYPE_CHECKING:
    import torch

    from modules.training.subnet_evaluator import SubnetEvaluator

SUPERNETS = "checkpoints/supernet_training"
ALIGNED = Setting(False, "the supernet was trained with --align_sample; its subnets are drawn freely")


@dataclass(frozen=True)
class Images:
    """The source of images, and settings of their loading."""

    dataset: str = setting("", "data set: digits, folder, CIFAR10 ...", shown="that of training")
    dataset_path: str = setting("", "folder with train/ and val/, or of a data set by name",
                                aliases=("--dataset_dir",))
    augment: str = setting("", "augmentation of the calibration images", choices=AUGMENTS, shown="that of training")
    data_loader_workers_per_gpu: int = WORKERS.field()

    def __post_init__(self):
        check_settings(self)


@dataclass(frozen=True)
class Evaluation(Images):
    """The images, batches and calibration of an evaluation."""

    valid_size: int = setting(0, "training images, held out, to evaluate on; 0: the validation set", low=0,
                              unit="images")
    batch_size_per_gpu: int = setting(32, "images per batch and process, in calibration too", **TRAIN_BATCH)
    post_bn_calibration_batch_num: int = setting(32, "training batches that calibrate batch norm", low=1)
    seed: int = replace(SEED, meaning="seed of the calibration images and of random subnets").field()
    debug: bool = setting(False, "evaluate on --debug_batches batches only")
    debug_batches: int = setting(3, "batches of --debug", low=1, needs="debug")
    print_freq: int = setting(10, "batches between lines of progress; 0: none", low=0)


def add_space_arguments(parser: argparse.ArgumentParser, several: bool = False, network: bool = False) -> None:
    """`--superspace` and `--supernet_choice`, and the place of their checkpoint."""
    add_supernet_arguments(parser, several, network)
    option(parser, "--quant_mode", False, "int8: use lsq.pth instead of checkpoint.pth")
    option(parser, "--resume", SUPERNETS, "checkpoint file, or the folder that holds <superspace>-<choice>-align0/")


def add_supernet_arguments(parser: argparse.ArgumentParser, several: bool = False, network: bool = False) -> None:
    """Options that choose a supernet; with `network` also `--network`, which chooses a subnet and its space
    (`given_networks`)."""
    needed = "" if network else MISSING
    if network:
        NETWORK.add_to(parser, "--network", many="+" if several else "", default=() if several else "", kind=str,
                       meaning=f"{NETWORK.meaning}; instead of a superspace")
    option(parser, "--superspace", needed, "superspace, such as onnxw, mobilew, onnxw_tiny", kind=str)
    option(parser, "--supernet_choice", () if network and several else needed,
           "block digits, then optionally - and window digits", kind=str, many="+" if several else "")
    ALIGNED.add_to(parser, "--align_sample")


def given_networks(args, resolution: int = 0) -> list[tuple[SupernetConfig, Network | None]]:
    """The spaces of `--superspace` and `--supernet_choice`, or those of `--network` with their networks, at
    `resolution` as of `read_network`.

    Raises:
        UserError: both are given, or neither is.
    """
    texts = [args.network] if isinstance(args.network, str) else args.network
    choices = [args.supernet_choice] if isinstance(args.supernet_choice, str) else args.supernet_choice
    choices = list(dict.fromkeys(filter(None, choices)))
    networks = [read_network(text, resolution=resolution) for text in dict.fromkeys(filter(None, texts))]
    if bool(networks) == bool(args.superspace):
        raise UserError(f"{'both' if networks else 'neither'} of --network and --superspace given; expected one")
    if networks and choices:
        raise UserError(f"--supernet_choice {' '.join(choices)} with --network; expected one of them")
    if networks:
        return [(network.space, network) for network in networks]
    if not choices and get_superspace(args.superspace).searched:
        raise UserError(f"--superspace {args.superspace} without --supernet_choice; expected block digits")
    return [(SupernetConfig.from_choice(args.superspace, choice), None) for choice in choices or [""]]


def make_evaluator(evaluation: Evaluation, path: str | Path, space: SupernetConfig, *, quant_mode: bool,
                   device: torch.device | None = None) -> SubnetEvaluator:
    """The `SubnetEvaluator` of the checkpoint `path` of supernet `space`."""
    from modules.training.subnet_evaluator import SubnetEvaluator

    e = evaluation
    return SubnetEvaluator.open(
        path, space, quant_mode=quant_mode, dataset=e.dataset, dataset_path=e.dataset_path, valid_size=e.valid_size,
        augment=e.augment, batch_size=e.batch_size_per_gpu, calibration_batches=e.post_bn_calibration_batch_num,
        limit_batches=e.debug_batches if e.debug else 0, num_workers=e.data_loader_workers_per_gpu, seed=e.seed,
        device=device, print_freq=e.print_freq)
