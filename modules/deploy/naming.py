"""Names of exported files, and the metadata in them."""
from __future__ import annotations

import json
from pathlib import Path

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.published import subnet_id
from modules.training.subnet_evaluator import SubnetEvaluator


def model_path(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool,
               pixels: bool = False) -> Path:
    """`<subnet_id>[_quant_int8][_pixels].onnx`."""
    suffix = f"{'_quant_int8' if int8 else ''}{'_pixels' if pixels else ''}"
    return Path(folder) / f"{subnet_id(space, choice)}{suffix}.onnx"


def trained_metadata(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig) -> dict[str, str]:
    """Metadata of the file of a trained subnet: the subnet, its classes and its preprocessing."""
    record = evaluator.record
    return {"supernet": str(evaluator.space), "subnet": str(choice), "classes": json.dumps(list(record.classes)),
            "mean": json.dumps(list(record.mean)), "std": json.dumps(list(record.std)),
            "crop_size": str(record.crop_size), "dataset": record.dataset, "eval_crop": str(record.eval_crop)}


def untrained_metadata(space: SupernetConfig, choice: SubnetChoiceConfig) -> dict[str, str]:
    """Metadata of the file of an untrained subnet."""
    return {"supernet": str(space), "subnet": str(choice), "untrained": "True"}
