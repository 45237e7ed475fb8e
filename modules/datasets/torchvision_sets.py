"""The downstream data sets, read through torchvision."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from modules.datasets.files import FileSource
from modules.datasets.sources import ArraySource, ImageSource
from modules.utils.errors import UserError, first_line
from modules.utils.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

# name: arguments that select the training part and the test part
SPLITS = {
    "CIFAR10": ({"train": True}, {"train": False}),
    "CIFAR100": ({"train": True}, {"train": False}),
    "Flowers102": ({"split": "train"}, {"split": "test"}),
    "OxfordIIITPet": ({"split": "trainval"}, {"split": "test"}),
    "Food101": ({"split": "train"}, {"split": "test"}),
    "StanfordCars": ({"split": "train"}, {"split": "test"}),
    "FGVCAircraft": ({"split": "trainval"}, {"split": "test"}),
}
DEFAULT_ROOT = os.path.join("data", "downloads")


def open_torchvision(name: str, root: str | None = None) -> tuple[ImageSource, ImageSource]:
    """The training and the test source of a torchvision data set below `root`. A missing data set is downloaded."""
    root = root or DEFAULT_ROOT
    return tuple(_as_source(_load(name, root, part)) for part in SPLITS[name])


def _load(name: str, root: str, part: dict[str, Any]) -> VisionDataset:
    dataset_class = getattr(import_torchvision().datasets, name)
    # With the identity as loader, an entry of the data set is its (path, label): listing them decodes nothing.
    # The CIFAR sets are arrays and OxfordIIITPet has no such argument.
    extra = {} if name.startswith("CIFAR") or name == "OxfordIIITPet" else {"loader": lambda path: path}
    try:
        return dataset_class(root, **part, **extra)
    except (RuntimeError, OSError):
        pass  # missing or incomplete
    try:
        os.makedirs(root, exist_ok=True)
        return dataset_class(root, **part, **extra, download=True)
    except Exception as error:  # anything can go wrong between a foreign server and this disk
        raise UserError(f"data set {name} is not in {root!r} and cannot be downloaded ({first_line(error)}); "
                        f"allowed: put the files there as torchvision.datasets.{name} expects them") from error


def _as_source(dataset: VisionDataset) -> ImageSource:
    if hasattr(dataset, "targets"):  # CIFAR10, CIFAR100
        return ArraySource(np.ascontiguousarray(dataset.data), dataset.classes, dataset.targets)
    if type(dataset).__name__ == "OxfordIIITPet":
        paths, labels = dataset._images, dataset._labels  # the public way decodes every image
    else:
        paths, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return FileSource(paths, dataset.classes, labels)
