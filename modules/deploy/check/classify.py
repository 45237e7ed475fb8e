"""Labels of single image files by a deployed model, with the preprocessing and class names in its metadata."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from modules.runtime.metadata import read_classes, read_crop_size, read_eval_crop, read_normalization
from modules.utils.errors import UserError


@dataclass(frozen=True)
class Guess:
    """A class and its probability in 0..1."""

    label: str
    probability: float


def classify(session, metadata: dict[str, str], path: str | Path, count: int = 5) -> list[Guess]:
    """The `count` likeliest classes of an image file, the likeliest first.

    Raises:
        UserError: a file that is no image, or a model whose metadata tell neither classes nor preprocessing.
    """
    classes = read_classes(metadata)
    image = load_image(path, metadata, session.get_inputs()[0].shape[-1])
    logits = session.run(None, {session.get_inputs()[0].name: image})[0][0].astype(np.float64)
    odds = np.exp(logits - logits.max())
    if len(classes) != len(logits):
        raise UserError(f"{getattr(metadata, 'where', 'the model')} has {len(logits)} outputs, and its metadata name "
                        f"{len(classes)} classes; allowed: as many")
    return [Guess(classes[i], float(odds[i] / odds.sum())) for i in np.argsort(-logits, kind="stable")[:count]]


def print_guesses(session, metadata: dict[str, str], paths, count: int) -> None:
    """Print the `count` likeliest classes of each image file, with their probabilities in percent."""
    for path in paths:
        print(path)
        for guess in classify(session, metadata, path, count):
            print(f"  {100 * guess.probability:6.2f}%  {guess.label}")


def load_image(path: str | Path, metadata: dict[str, str], resolution: int) -> np.ndarray:
    """The image file as the model wants it: float32 (1, 3, resolution, resolution); UserError if it is no image.

    As in training: the centre crop of evaluation, normalised, then resized.
    """
    from PIL import Image

    from modules.datasets.transforms import EVAL_CROP, eval_transform
    from modules.modeling.network import resize

    mean, std = read_normalization(metadata)
    norm = SimpleNamespace(mean=mean, std=std, eval_crop=read_eval_crop(metadata, EVAL_CROP))
    try:
        with Image.open(path) as image:
            pixels = eval_transform(read_crop_size(metadata), norm)(image.convert("RGB"))
    except OSError as error:  # also what Pillow raises for a file that it cannot read
        raise UserError(f"cannot read the image {str(path)!r}: {error.strerror or error}") from None
    return resize(pixels[None], resolution).numpy()
