"""The embedded digits: scikit-learn's 1,797 handwritten digits, real images of 8x8 pixels without a download."""
from __future__ import annotations

import numpy as np

from modules.datasets.sources import ArraySource

_VALIDATION_EVERY = 5


def open_digits() -> tuple[ArraySource, ArraySource]:
    """The training and the validation source.

    The split is fixed by position alone: in each class every fifth image in file order is for validation (about 20%).
    It is stratified, and the same with every version of every library.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int64)
    grey = np.rint(data.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    rank_in_class = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        rank_in_class[of_class] = np.arange(of_class.sum())
    validation = rank_in_class % _VALIDATION_EVERY == _VALIDATION_EVERY - 1
    classes = [str(name) for name in data.target_names]
    return tuple(ArraySource(pixels[part], classes, labels[part]) for part in (~validation, validation))
