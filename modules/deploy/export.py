"""Export of a trained subnet: its fp32 and int8 ONNX files, checked against the network."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

from modules.deploy.agreement import Agreement, compare
from modules.deploy.builder import AnyRange, SyntheticWeights, build_graph
from modules.deploy.lower import lower
from modules.deploy.onnx_writer import write_onnx
from modules.deploy.ort import open_session
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.superspace import INPUT_CHANNELS
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.files import write_manifest


def model_path(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool) -> Path:
    """`<superspace>_<choice>_<first 6 hex digits of the subnet string's sha256>[_quant_int8].onnx`."""
    digest = hashlib.sha256(str(choice).encode()).hexdigest()[:6]
    return Path(folder) / f"{space.superspace}_{space.choice}_{digest}{'_quant_int8' if int8 else ''}.onnx"


def export_trained(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig,
                   folder: str | Path) -> tuple[Path, Agreement]:
    """Write subnet `choice` as int8 (if the evaluator is) or fp32 ONNX file.

    Returns:
        The file, and its agreement with the torch network on the evaluator's whole validation part.
    """
    net = evaluator.subnet(choice)
    int8, record = evaluator.quant_mode, evaluator.record
    path = model_path(folder, evaluator.space, choice, int8)
    metadata = _metadata(evaluator.space, choice, {
        "classes": json.dumps(list(record.classes)), "mean": json.dumps(list(record.mean)),
        "std": json.dumps(list(record.std)), "crop_size": record.crop_size, "dataset": record.dataset})
    write_onnx(lower(net, evaluator.calibration if int8 else None), path, metadata)
    agreement = compare(net, open_session(path), evaluator.validation_batches())
    write_manifest(path, encoding=str(choice), supernet=str(evaluator.space), agreement=vars(agreement))
    return path, agreement


def export_untrained(space: SupernetConfig, choice: SubnetChoiceConfig, folder: str | Path, int8: bool,
                     num_classes: int = 1000) -> Path:
    """Write subnet `choice` with random weights, for timing."""
    spec = resolve(space, choice, num_classes)
    graph = build_graph(list(spec.blocks), SyntheticWeights(int8), (INPUT_CHANNELS, spec.resolution, spec.resolution))
    graph.ranges = AnyRange()
    path = model_path(folder, space, choice, int8)
    write_onnx(graph, path, _metadata(space, choice, {"untrained": True}))
    return path


def _metadata(space: SupernetConfig, choice: SubnetChoiceConfig, more: dict) -> dict:
    return {"supernet": str(space), "subnet": str(choice), **more}
