"""Export of subnets as model files of any format, the trained ones checked against the network."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modules.deploy.cards.card import card_path, check_untrained, write_card
from modules.deploy.check.agreement import Agreement, compare
from modules.deploy.graph.graph import Graph
from modules.deploy.graph.lower import lower
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.naming import trained_metadata, untrained_metadata
from modules.runtime.engines import open_model
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.files import write_manifest


class Format(Protocol):
    """A format of model files. With `pixels` its models take images as bytes."""

    pixels: bool

    def path(self, folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool) -> Path:
        """The name of a subnet's file."""

    def write(self, graph: Graph, path: Path, metadata: dict[str, str], mean: tuple[float, ...],
              std: tuple[float, ...]) -> None:
        """Write `graph`, which takes images normalised by `mean` and `std`."""

    def operators(self, path: Path) -> dict[str, int] | None:
        """Number of each operator in the graph that the engine runs; None: not known."""


@dataclass(frozen=True)
class Exported:
    """A file, its agreement with the torch network on the whole validation part, and the operators that the engine
    runs."""

    path: Path
    agreement: Agreement | None = None
    operators: dict[str, int] | None = None
    int8: bool = False

    def __str__(self) -> str:
        if self.agreement is None:
            return str(self.path)
        text = f"{self.path}: {self.agreement}"
        if self.int8 and self.operators is not None:
            convs, quantize, dequantize = (
                self.operators.get(name, 0) for name in ("Conv", "QuantizeLinear", "DequantizeLinear"))
            text += (f"\n{self.path}: onnxruntime runs {convs} float convolutions, quantises {quantize} and "
                     f"dequantises {dequantize} tensors between operators")
        return text


def export_trained(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, folder: str | Path,
                   form: Format) -> Exported:
    """Write subnet `choice` as int8 (if the evaluator is) or fp32 file, with its manifest and card."""
    net, record, int8 = evaluator.subnet(choice), evaluator.record, evaluator.quant_mode
    path = form.path(folder, evaluator.space, choice, int8)
    graph = lower(net, evaluator.calibration if int8 else None, str(evaluator.path))
    card_path(path).unlink(missing_ok=True)  # of an earlier file: a run that is stopped here leaves none
    form.write(graph, path, trained_metadata(evaluator, choice), record.mean, record.std)
    agreement, operators = compare(net, open_model(path), evaluator.validation_batches()), form.operators(path)
    write_manifest(path, encoding=str(choice), supernet=str(evaluator.space), agreement=vars(agreement))
    write_card(path, evaluator, choice, agreement, operators=operators, pixels=form.pixels,
               fp32=form.path(folder, evaluator.space, choice, False))
    return Exported(path, agreement, operators, int8)


def export_untrained(space: SupernetConfig, choice: SubnetChoiceConfig, folder: str | Path, int8: bool, form: Format,
                     num_classes: int = 1000, weight_bits: int = 8) -> Exported:
    """Write subnet `choice` with random weights, for timing."""
    path = form.path(folder, space, choice, int8)
    card_path(path).unlink(missing_ok=True)  # of a trained file that is gone
    form.write(untrained_graph(space, choice, int8, num_classes, weight_bits), path, untrained_metadata(space, choice),
               IMAGENET_MEAN, IMAGENET_STD)
    return Exported(path, int8=int8)


def export_subnets(subnets: Iterable[tuple[SupernetConfig, SubnetChoiceConfig]], folder: str | Path, form: Format,
                   precisions: Iterable[bool],
                   evaluator: Callable[[SupernetConfig, bool], SubnetEvaluator] | None = None,
                   weight_bits: int = 8, num_classes: int = 1000) -> Iterator[Exported]:
    """Export `subnets` in each precision (True: int8), supernet by supernet.

    Args:
        evaluator: a function that gives the evaluator of a supernet in a precision; None: random weights, of
            `weight_bits` bits in int8, and `num_classes` classes.

    Raises:
        UserError: random weights, and one of the files is there as a trained one.
    """
    subnets = list(subnets)
    if evaluator is None:
        for space, choice in subnets:
            for int8 in precisions:
                check_untrained(form.path(folder, space, choice, int8))
    spaces: dict[SupernetConfig, list[SubnetChoiceConfig]] = {}
    for space, choice in subnets:
        spaces.setdefault(space, []).append(choice)
    for space, choices in spaces.items():
        for int8 in precisions:
            trained = evaluator and evaluator(space, int8)
            for choice in choices:
                yield (export_trained(trained, choice, folder, form) if trained
                       else export_untrained(space, choice, folder, int8, form, num_classes, weight_bits))


def timed_files(space: SupernetConfig, choice: SubnetChoiceConfig, folder: str | Path, form: Format,
                write: bool = True) -> dict[str, Path]:
    """The fp32 and int8 files of a subnet for a benchmark. With `write` a missing file is written with random weights,
    which take as long as trained ones, and a line says so."""
    paths = {name: form.path(folder, space, choice, name == "int8") for name in ("fp32", "int8")}
    for name, path in paths.items():
        if write and not path.is_file():
            export_untrained(space, choice, folder, name == "int8", form)
            print(f"{path} was not there: written with random weights, for timing", flush=True)
    return paths
