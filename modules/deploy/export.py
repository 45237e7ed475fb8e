"""Export of a trained subnet: its fp32 and int8 ONNX files, checked against the network."""
from __future__ import annotations

import json
from pathlib import Path

from modules.deploy.agreement import Agreement, compare
from modules.deploy.builder import AnyRange, SyntheticWeights, build_graph
from modules.deploy.card import write_card
from modules.deploy.graph import Graph
from modules.deploy.lower import lower
from modules.deploy.onnx_writer import write_onnx
from modules.deploy.ort import open_model, optimized_ops
from modules.deploy.pixels import fold_normalization
from modules.modeling.net_spec import resolve
from modules.modeling.restore import IMAGENET_MEAN, IMAGENET_STD
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.published import subnet_id
from modules.search_space.superspace import INPUT_CHANNELS
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.files import write_manifest


def model_path(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool,
               pixels: bool = False) -> Path:
    """`<subnet_id>[_quant_int8][_pixels].onnx`."""
    suffix = f"{'_quant_int8' if int8 else ''}{'_pixels' if pixels else ''}"
    return Path(folder) / f"{subnet_id(space, choice)}{suffix}.onnx"


def export_trained(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, folder: str | Path,
                   pixels: bool = False) -> tuple[Path, Agreement, dict[str, int]]:
    """Write subnet `choice` as int8 (if the evaluator is) or fp32 ONNX file, with its card.

    Args:
        pixels: the model takes images as bytes.

    Returns:
        The file, its agreement with the torch network on the evaluator's whole validation part, and how often each
        operator occurs in the graph that onnxruntime runs.
    """
    net = evaluator.subnet(choice)
    int8, record = evaluator.quant_mode, evaluator.record
    path = model_path(folder, evaluator.space, choice, int8, pixels)
    graph = lower(net, evaluator.calibration if int8 else None)
    write_onnx(fold_normalization(graph, record.mean, record.std) if pixels else graph, path,
               trained_metadata(evaluator, choice))
    agreement = compare(net, open_model(path), evaluator.validation_batches())
    operators = optimized_ops(path, folder)
    write_manifest(path, encoding=str(choice), supernet=str(evaluator.space), agreement=vars(agreement))
    write_card(path, evaluator, choice, agreement, operators=operators, pixels=pixels,
               fp32=model_path(folder, evaluator.space, choice, False, pixels))
    return path, agreement, operators


def export_untrained(space: SupernetConfig, choice: SubnetChoiceConfig, folder: str | Path, int8: bool,
                     num_classes: int = 1000, pixels: bool = False) -> Path:
    """Write subnet `choice` with random weights, for timing."""
    graph = untrained_graph(space, choice, int8, num_classes)
    path = model_path(folder, space, choice, int8, pixels)
    graph = fold_normalization(graph, IMAGENET_MEAN, IMAGENET_STD) if pixels else graph
    write_onnx(graph, path, untrained_metadata(space, choice))
    return path


def untrained_graph(space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool, num_classes: int = 1000) -> Graph:
    """The graph of subnet `choice` with random weights and plausible ranges."""
    spec = resolve(space, choice, num_classes)
    graph = build_graph(list(spec.blocks), SyntheticWeights(int8), (INPUT_CHANNELS, spec.resolution, spec.resolution))
    graph.ranges = AnyRange()
    return graph


def trained_metadata(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig) -> dict[str, str]:
    """What the file of a trained subnet says of itself: what it is, its classes and its preprocessing."""
    record = evaluator.record
    return {"supernet": str(evaluator.space), "subnet": str(choice), "classes": json.dumps(list(record.classes)),
            "mean": json.dumps(list(record.mean)), "std": json.dumps(list(record.std)),
            "crop_size": str(record.crop_size), "dataset": record.dataset}


def untrained_metadata(space: SupernetConfig, choice: SubnetChoiceConfig) -> dict[str, str]:
    """What the file of an untrained subnet says of itself."""
    return {"supernet": str(space), "subnet": str(choice), "untrained": "True"}
