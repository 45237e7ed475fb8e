"""Export of a subnet as a Keras model, and that model through TensorFlow's converter."""
from __future__ import annotations

import tempfile
from pathlib import Path

from modules.deploy.check.agreement import Agreement, compare
from modules.deploy.naming import model_path, trained_metadata, untrained_metadata
from modules.deploy.to_keras.converter import convert, random_images
from modules.deploy.to_keras.load import import_tensorflow, quiet
from modules.deploy.to_keras.session import KerasSession
from modules.deploy.to_keras.view import keras_subnet, untrained_keras
from modules.deploy.to_tflite.file import add_metadata
from modules.modeling.net_spec import resolve
from modules.modeling.network import resize
from modules.runtime.litert import open_session
from modules.runtime.session import opening
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.errors import UserError
from modules.utils.files import atomic_write, write_manifest
from modules.utils.json_files import read_json

REPRESENTATIVE_IMAGES = 128  # for the converter's ranges; more take long and change little


def keras_path(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig) -> Path:
    """The name of the fp32 ONNX file of the same subnet, but .keras."""
    return model_path(folder, space, choice, int8=False).with_suffix(".keras")


def converter_path(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig) -> Path:
    """`<subnet_id>_converter_int8.tflite`."""
    path = keras_path(folder, space, choice)
    return path.with_name(f"{path.stem}_converter_int8.tflite")


def export_trained(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig,
                   folder: str | Path) -> list[tuple[Path, Agreement]]:
    """Write subnet `choice` of an fp32 supernet as a Keras model, and as the int8 TFLite file of TensorFlow's
    converter. Calibration images give the ranges.

    Returns:
        Both files, each with its agreement with the torch network on the evaluator's whole validation part.
    """
    net = evaluator.subnet(choice).cpu()
    model, metadata = keras_subnet(net), trained_metadata(evaluator, choice)
    paths = keras_path(folder, evaluator.space, choice), converter_path(folder, evaluator.space, choice)
    images, wanted = [], REPRESENTATIVE_IMAGES
    for batch in evaluator.calibration:
        images.append(resize(batch[:wanted], net.resolution).permute(0, 2, 3, 1).contiguous().numpy())
        wanted -= len(images[-1])
    _save(model, paths[0])
    _write(paths[1], add_metadata(convert(model, images), metadata))
    results = []
    for path, session in zip(paths, (KerasSession(model), open_session(paths[1])), strict=True):
        agreement = compare(net, session, evaluator.validation_batches())
        write_manifest(path, encoding=str(choice), supernet=str(evaluator.space), agreement=vars(agreement))
        results.append((path, agreement))
    return results


def export_untrained(space: SupernetConfig, choice: SubnetChoiceConfig, folder: str | Path,
                     num_classes: int = 1000) -> list[Path]:
    """Write the same two files with random weights, for timing. UserError if one of them is there and trained."""
    paths = [keras_path(folder, space, choice), converter_path(folder, space, choice)]
    for path in paths:
        _check_untrained(path)
    model = untrained_keras(resolve(space, choice, num_classes))
    _save(model, paths[0])
    _convert_untrained(model, space, choice, paths[1])
    return paths


def converted(folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig) -> Path:
    """The converter's int8 file of a subnet, for timing; a missing file is written with random weights."""
    path = converter_path(folder, space, choice)
    if not path.is_file():
        _convert_untrained(untrained_keras(resolve(space, choice, 1000)), space, choice, path)
    return path


def _convert_untrained(model, space: SupernetConfig, choice: SubnetChoiceConfig, path: Path) -> None:
    _write(path, add_metadata(convert(model, random_images(model)), untrained_metadata(space, choice)))


def _check_untrained(path: Path) -> None:
    """UserError if the manifest of a file says that it answered as a trained network."""
    manifest = Path(f"{path}.json")
    if path.is_file() and manifest.is_file() and "agreement" in read_json(manifest, "manifest"):
        raise UserError(f"{str(path)!r} is a trained model; random weights would replace it. Give another folder")


def load_keras(path: str | Path):
    """The `keras.Model` in a .keras file; UserError if it is missing or no such file."""
    with opening(path, "Keras", "tflite_tools/export_keras.py", Exception):  # a zip, its json, the weights: anything
        return import_tensorflow()[1].models.load_model(path, compile=False)


def _save(model, path: Path) -> None:
    # Keras insists on the suffix: a temporary file with another suffix is not possible.
    with tempfile.TemporaryDirectory(prefix="keras") as folder, quiet():
        model.save(f"{folder}/model.keras")
        _write(path, Path(f"{folder}/model.keras").read_bytes())


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path, "wb") as file:
        file.write(content)
