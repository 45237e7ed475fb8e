"""Options that the scripts of adj_quant share, and the evaluator that they describe."""
from __future__ import annotations

from dataclasses import dataclass

from modules.search_space.config import SupernetConfig
from modules.search_space.reference import Network
from modules.training.arguments import SUPERNETS, Images, add_supernet_arguments
from modules.utils.settings import add_arguments, option, setting


@dataclass(frozen=True)
class Source(Images):
    """Which checkpoint, and which images."""

    checkpoint_path: str = setting(SUPERNETS, "checkpoint.pth, or the folder that holds "
                                   "<superspace>-<choice>-align0/checkpoint.pth; a file of public weights too "
                                   "(efficientnet_b0, mobilenet_v2 ...), or package (efficientnet_lite0 ... lite2)",
                                   aliases=("--weight_path",))
    quant_mode: bool = setting(False, "int8: lsq.pth instead of checkpoint.pth, and its learned scales as ranges")
    valid_size: int | None = setting(None, "training images, held out, to validate on; 0: the validation set", low=0,
                                     unit="images", shown="as many as training held out")


def add_source_arguments(parser) -> None:
    """Which network, which checkpoint of it and which images."""
    add_supernet_arguments(parser, network=True)
    add_arguments(parser, Source)


def add_model_arguments(parser) -> None:
    """Which network that adj_quant/train.py wrote."""
    option(parser, "--model", "checkpoints/adj_quant/adj.pth", "adj.pth, adj_swa.pth, or the folder of a run")
    option(parser, "--pick", "", "which point of the run in the folder --model: accuracy>=75, score<=0.3")


def make_source(source: Source, space: SupernetConfig, align_sample: bool, network: Network | None = None, **evaluator):
    """The `SubnetEvaluator` of a checkpoint of `space`: in a folder that of the supernet which `network` names, if it
    names one. `evaluator`: more of its arguments."""
    from modules.modeling.restore import find_checkpoint, holds_int8, is_one_checkpoint
    from modules.training.subnet_evaluator import SubnetEvaluator

    given = source.checkpoint_path
    int8 = source.quant_mode or (is_one_checkpoint(given) and holds_int8(given))  # a file tells its own precision
    return SubnetEvaluator.open(
        find_checkpoint(given, space, int8, align_sample, network.supernet if network else ""), space, quant_mode=int8,
        dataset=source.dataset, dataset_path=source.dataset_path, valid_size=source.valid_size,
        augment=source.augment, num_workers=source.data_loader_workers_per_gpu, **evaluator)
