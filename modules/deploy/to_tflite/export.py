"""Export of a subnet as TFLite files, the trained ones checked against the network."""
from __future__ import annotations

from pathlib import Path

from modules.deploy.cards.card import write_card
from modules.deploy.check.agreement import Agreement, compare
from modules.deploy.graph.lower import lower
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.naming import model_path, trained_metadata, untrained_metadata
from modules.deploy.to_tflite.float_writer import Form
from modules.deploy.to_tflite.writer import write_tflite
from modules.runtime.litert import open_session
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.files import write_manifest


def tflite_path(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool) -> Path:
    """The name of the ONNX file of the same subnet, but .tflite."""
    return model_path(folder, space, choice, int8).with_suffix(".tflite")


def export_trained(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, folder: str | Path,
                   form: Form | None = None) -> tuple[Path, Agreement]:
    """Write subnet `choice` as int8 (if the evaluator is) or fp32 TFLite file, with its card.

    Returns:
        The file, and its agreement with the torch network on the evaluator's whole validation part.
    """
    net, int8 = evaluator.subnet(choice), evaluator.quant_mode
    path = tflite_path(folder, evaluator.space, choice, int8)
    graph = lower(net, evaluator.calibration if int8 else None, str(evaluator.path))
    write_tflite(graph, path, trained_metadata(evaluator, choice), form)
    agreement = compare(net, open_session(path), evaluator.validation_batches())
    write_manifest(path, encoding=str(choice), supernet=str(evaluator.space), agreement=vars(agreement))
    write_card(path, evaluator, choice, agreement, fp32=tflite_path(folder, evaluator.space, choice, False))
    return path, agreement


def export_untrained(space: SupernetConfig, choice: SubnetChoiceConfig, folder: str | Path, int8: bool,
                     form: Form | None = None, num_classes: int = 1000) -> Path:
    """Write subnet `choice` with random weights, for timing."""
    path = tflite_path(folder, space, choice, int8)
    write_tflite(untrained_graph(space, choice, int8, num_classes), path, untrained_metadata(space, choice), form)
    return path
