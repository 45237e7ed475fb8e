"""Export of a trained subnet: its fp32 and int8 ONNX files, checked against the network."""
from __future__ import annotations

from pathlib import Path

from modules.deploy.cards.card import write_card
from modules.deploy.check.agreement import Agreement, compare
from modules.deploy.graph.lower import lower
from modules.deploy.graph.normalization import fold_normalization
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.naming import model_path, trained_metadata, untrained_metadata
from modules.deploy.to_onnx.writer import write_onnx
from modules.runtime.ort import open_model, optimized_ops
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.imagenet import IMAGENET_MEAN, IMAGENET_STD
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.files import write_manifest


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
    graph = lower(net, evaluator.calibration if int8 else None, str(evaluator.path))
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






