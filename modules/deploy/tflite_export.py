"""Export of a subnet as TFLite files, the trained ones checked against the network."""
from __future__ import annotations

import json
from pathlib import Path

from modules.deploy.agreement import Agreement, compare
from modules.deploy.builder import AnyRange, SyntheticWeights, build_graph
from modules.deploy.export import model_path
from modules.deploy.litert import open_session
from modules.deploy.lower import lower
from modules.deploy.tflite_float import Form
from modules.deploy.tflite_writer import write_tflite
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.superspace import INPUT_CHANNELS
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.files import write_manifest


def tflite_path(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool) -> Path:
    """The name of the ONNX file of the same subnet, but .tflite."""
    return model_path(folder, space, choice, int8).with_suffix(".tflite")


def export_trained(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, folder: str | Path,
                   form: Form | None = None) -> tuple[Path, Agreement]:
    """Write subnet `choice` as int8 (if the evaluator is) or fp32 TFLite file.

    Returns:
        The file, and its agreement with the torch network on the evaluator's whole validation part.
    """
    net, record, int8 = evaluator.subnet(choice), evaluator.record, evaluator.quant_mode
    path = tflite_path(folder, evaluator.space, choice, int8)
    metadata = {"classes": json.dumps(list(record.classes)), "mean": json.dumps(list(record.mean)),
                "std": json.dumps(list(record.std)), "crop_size": record.crop_size, "dataset": record.dataset}
    write_tflite(lower(net, evaluator.calibration if int8 else None), path,
                 {**_encoding(evaluator.space, choice), **metadata}, form)
    agreement = compare(net, open_session(path), evaluator.validation_batches())
    write_manifest(path, **_encoding(evaluator.space, choice), agreement=vars(agreement))
    return path, agreement


def export_untrained(space: SupernetConfig, choice: SubnetChoiceConfig, folder: str | Path, int8: bool,
                     form: Form | None = None, num_classes: int = 1000) -> Path:
    """Write subnet `choice` with random weights, for timing."""
    spec = resolve(space, choice, num_classes)
    graph = build_graph(list(spec.blocks), SyntheticWeights(int8), (INPUT_CHANNELS, spec.resolution, spec.resolution))
    graph.ranges = AnyRange()
    path = tflite_path(folder, space, choice, int8)
    write_tflite(graph, path, {**_encoding(space, choice), "untrained": True}, form)
    return path


def _encoding(space: SupernetConfig, choice: SubnetChoiceConfig) -> dict[str, str]:
    return {"supernet": str(space), "subnet": str(choice)}
