"""The first line of every run that reads images: the data set, its classes, and the number and size of its images."""
from __future__ import annotations

from collections.abc import Callable, Iterable

from modules.datasets.build import Data
from modules.datasets.classes import listed
from modules.utils.notes import print_once


def describe(data: Data, resolutions: Iterable[int]) -> str:
    """Data set, classes, number of images in each part, and the resolutions in pixels, in one line."""
    info, sizes = data.info, ", ".join(map(str, sorted(set(resolutions))))
    validating = len(data.valid_indices)
    held_out = f" held out of training, {len(data.test_indices)} for testing" if data.valid is not data.test else ""
    return (f"data set {info.where}: {len(info.classes)} classes ({listed(info.classes)}), {len(data.train_indices)} "
            f"training images, {validating} for validation{held_out}, at {sizes} pixels")


def announce(data: Data, resolutions: Iterable[int], record: Callable[[str], None] | None = None) -> None:
    """Print `describe` once, on the first process, and pass the line to `record`, which writes it into a log."""
    from modules.utils import dist

    line = describe(data, resolutions)
    print_once(line)
    if record and dist.rank() == 0:
        record(line)
