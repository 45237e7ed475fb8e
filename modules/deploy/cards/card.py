"""The card of a model: its network, accuracy and latency, in a JSON file beside it."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from modules.deploy.check.agreement import Agreement
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig
from modules.search_space.published import published_name
from modules.training.evaluation import wilson_interval
from modules.utils.errors import UserError
from modules.utils.files import file_digest, write_json
from modules.utils.json_files import read_json

if TYPE_CHECKING:
    from modules.training.subnet_evaluator import SubnetEvaluator

SUFFIX = ".card.json"
_ACCURACY = (type(None), {"top1": float, "low": float, "high": float})
FORM = {"model": str, "name": (str, type(None)), "supernet": str, "subnet": str, "precision": str, "input": str,
        "placement": (str, type(None)), "training": str, "dataset": str, "images": int,
        "accuracy": {"fp32": _ACCURACY, "network": _ACCURACY, "engine": _ACCURACY[1]}, "agreement": {"percent": float},
        "mmacs": float, "mparams": float, "bytes": int, "latency": (type(None), {"ms": float, "spread_ms": float}),
        "checkpoint": {"sha256": str}}


def card_path(model: str | Path) -> Path:
    """The card of a model file."""
    return Path(f"{model}{SUFFIX}")


def write_card(model: Path, evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, agreement: Agreement, *, fp32: Path,
               operators: dict[str, int] | None = None, pixels: bool = False) -> None:
    """Write the card of `model`, the export of subnet `choice` of `evaluator`'s supernet.

    Accuracies are on the whole validation part, in percent with their 95% interval. `network` is the accuracy in torch
    (fake-quantised in int8), `engine` that of the file, `fp32` that of the fp32 file if it has a card. The benchmark
    adds the latency.

    Args:
        fp32: the subnet's fp32 file.
        operators: number of each operator in the graph that the engine runs.
        pixels: the model takes bytes.
    """
    record, int8 = evaluator.record, evaluator.quant_mode
    macs, params = count_net_flops_and_params(resolve(evaluator.space, choice, len(record.classes)))
    card = {
        "model": model.name, "name": published_name(evaluator.space, choice), "supernet": str(evaluator.space),
        "subnet": str(choice), "precision": "int8" if int8 else "fp32", "input": "bytes" if pixels else "normalised",
        "placement": record.quant.placement if int8 else None,
        "weight_bits": record.quant.nbits_w if int8 else 32,
        "training": "alone" if evaluator.record.only_subnet else "supernet", "dataset": evaluator.data.info.name,
        "images": agreement.images,
        "accuracy": {"fp32": _fp32_accuracy(fp32, evaluator.data.info.name, agreement.images) if int8 else None,
                     "network": _accuracy(agreement.top1_network, agreement.images),
                     "engine": _accuracy(agreement.top1_model, agreement.images)},
        "agreement": {"percent": agreement.percent, "margin_in_errors": agreement.margin_in_errors, **vars(agreement)},
        "mmacs": macs, "mparams": params, "bytes": model.stat().st_size, "operators": operators, "latency": None,
        "checkpoint": {"file": Path(evaluator.path).name, "sha256": file_digest(evaluator.path)}}
    write_json(card_path(model), card)


def check_untrained(model: str | Path) -> None:
    """UserError if a model file is there with a card: it is trained, and a file for timing would replace it."""
    if card_path(model).is_file() and Path(model).is_file():
        raise UserError(f"{str(model)!r} is a trained model, with a card beside it; random weights would replace it. "
                        "Give another --output_dir")


def check_cards(models: Iterable[str | Path]) -> None:
    """UserError if a card of one of the model files is damaged; a file needs no card."""
    for path in map(card_path, models):
        if path.is_file():
            read_card(path)


def add_latency(model: str | Path, latency: dict) -> None:
    """Write a measured latency (`ms`, `spread_ms`, `peak_mb`, and the conditions) to the model's card, if there is
    one."""
    path = card_path(model)
    if path.is_file():
        write_json(path, read_card(path) | {"latency": latency})


def read_card(path: str | Path) -> dict:
    """A card's contents; UserError if the file is not one."""
    try:
        return read_json(path, "model card", FORM, finite=False)  # a margin may be infinite
    except UserError as error:
        raise UserError(f"{error}; export_onnx.py and export_tflite.py write model cards") from None


def _accuracy(top1: float, images: int) -> dict[str, float]:
    low, high = wilson_interval(top1 / 100, images)
    return {"top1": top1, "low": low, "high": high}


def _fp32_accuracy(fp32: Path, dataset: str, images: int) -> dict[str, float] | None:
    """The accuracy in the card of the file `fp32`, if it is that of as many images of the same data set."""
    card = read_card(card_path(fp32)) if card_path(fp32).is_file() else {}
    same = (card.get("precision"), card.get("dataset"), card.get("images")) == ("fp32", dataset, images)
    return card["accuracy"]["engine"] if same else None
