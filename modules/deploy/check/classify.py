"""Labels of single image files by a deployed model, with the preprocessing and class names in its metadata."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.runtime.metadata import model_name, read_classes, read_preprocessing
from modules.runtime.session import Session, check_finite, predict_logits
from modules.utils.errors import UserError
from modules.utils.notes import say


@dataclass(frozen=True)
class Guess:
    """A class and its probability in 0..1."""

    label: str
    probability: float


def classify(session: Session, metadata: dict[str, str], path: str | Path, count: int = 5) -> list[Guess]:
    """The `count` likeliest classes of an image file, the likeliest first.

    Raises:
        UserError: a file that is no image, a model without classes and preprocessing in its metadata, or logits that
            are NaN or infinite.
    """
    classes = read_classes(metadata)
    image = load_image(path, metadata, session.get_inputs()[0].shape[-1])
    logits = predict_logits(session, image)
    check_finite(logits, model_name(metadata))
    logits = logits[0].astype(np.float64)
    if len(classes) != len(logits):
        raise UserError(f"{model_name(metadata)} has {len(logits)} outputs and names {len(classes)} classes; allowed: "
                        "as many")
    odds = np.exp(logits - logits.max())
    return [Guess(classes[i], float(odds[i] / odds.sum())) for i in np.argsort(-logits, kind="stable")[:count]]


def print_guesses(session: Session, metadata: dict[str, str], paths: Iterable[str | Path], count: int) -> None:
    """Print the `count` likeliest classes of each image file, with their probabilities in percent."""
    for path in paths:
        print(path)
        for guess in classify(session, metadata, path, count):
            print(f"  {100 * guess.probability:6.2f}%  {guess.label}")


def load_image(path: str | Path, metadata: dict[str, str], resolution: int) -> np.ndarray:
    """The image file as the model takes it: float32 (1, 3, resolution, resolution), such as (1, 3, 224, 224). UserError
    if it is no image.

    As in training: the centre crop of evaluation, normalised, then resized.
    """
    from modules.datasets.decode import decode_file
    from modules.datasets.transforms import eval_transform
    from modules.modeling.network import resize

    preprocessing = read_preprocessing(metadata)
    image = decode_file(path)
    if "scaled" in image.info:
        say(f"{path} is scaled from {image.info['scaled']}, for its format states no range")
    pixels = eval_transform(preprocessing.crop_size, preprocessing)(image)
    return resize(pixels[None], resolution).numpy()
