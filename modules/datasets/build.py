"""The images of a run, from the values of --dataset, --dataset_path and --valid_size."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modules.datasets.embedded import EMBEDDED, LEAST_CROP
from modules.datasets.sources import ImageSource
from modules.search_space.preprocessing import EVAL_CROP, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from modules.utils.errors import UserError, check_choice

DATASETS = (*EMBEDDED, "folder", "CIFAR10", "CIFAR100", "Flowers102", "OxfordIIITPet", "Food101", "StanfordCars",
            "FGVCAircraft")
SPLIT_SEED = 2147483647  # as published: every split of the training images is the same


@dataclass(frozen=True)
class DataInfo:
    """Facts about a data set for transforms, networks and checkpoints."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]       # of values in 0..1, per channel
    std: tuple[float, float, float]
    hflip: bool                            # whether a mirror image has the same class
    crop_scale: tuple[float, float]        # range of the part of the area that a training crop keeps
    eval_crop: float = EVAL_CROP           # part of the side that the centre crop of evaluation keeps
    path: str = ""                         # folder of the images, if it was given

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def where(self) -> str:
        """Name and path, for messages."""
        return f"{self.name} {self.path!r}" if self.path else self.name


@dataclass(frozen=True)
class Data:
    """Three parts, each a source and the indices of its images in the part, int64 (n,), such as (1437,).

    `valid` is cut off the training images if a validation size is given; otherwise it is the official validation set.
    `test` is always the official validation set.
    """

    info: DataInfo
    train: ImageSource
    train_indices: np.ndarray
    valid: ImageSource
    valid_indices: np.ndarray
    test: ImageSource
    test_indices: np.ndarray

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Data:
        """The same images, whose transforms normalise by `mean` and `std`, per channel, of values in 0..1."""
        return replace(self, info=replace(self.info, mean=tuple(mean), std=tuple(std)))

    def cropped(self, least: float) -> Data:
        """The same images, whose training crops keep at least `least` of an image's area; 0: the set's own value."""
        return replace(self, info=replace(self.info, crop_scale=(least or _least_crop(self.info.name), 1.0)))

    def preprocessing(self, crop_size: int) -> Preprocessing:
        """The preprocessing of this set's evaluation, with images of `crop_size` pixels."""
        return Preprocessing(crop_size, self.info.eval_crop, self.info.mean, self.info.std)

    def preprocessed(self, seen: Preprocessing) -> Data:
        """The same images, as a network `seen` them in its evaluation; the transforms take the size of images apart."""
        return replace(self, info=replace(self.info, eval_crop=seen.eval_crop)).normalised(seen.mean, seen.std)


def _least_crop(name: str) -> float:
    return LEAST_CROP.get(name, 0.08)


def data_of(dataset: str, dataset_path: str, record) -> tuple[str, str]:
    """Name and path of the requested data set. Without a request, those of the training in `record`, the record of a
    checkpoint."""
    if dataset or dataset_path or record is None:
        return dataset, dataset_path
    return record.dataset, (record.training or {}).get("dataset_path", "")


def load_data(dataset: str | None = None, dataset_path: str | None = None, valid_size: int | None = 0,
              crop_scale_min: float = 0.0, eval_crop: float = EVAL_CROP, labelled: bool = True) -> Data:
    """The `Data` of a run.

    Args:
        dataset: one of DATASETS; if empty, "folder" with a path. The digits are never a default: a recipe has to name
            them.
        dataset_path: the folder of the images; not for digits; optional for the torchvision sets.
        valid_size: number of training images held out for validation; 0 or less, or None: none.
        crop_scale_min: least part of the area that a training crop keeps; 0: the data set's own value.
        eval_crop: part of the side that the centre crop of evaluation keeps; 1: the whole image.
        labelled: whether the labels count. Otherwise any folder with image files in it will do; every tenth of them is
            for validation, if the folder has no such part.

    Raises:
        UserError: no data set, an unknown name, a missing or useless path, a split that leaves no image.
    """
    if not dataset and not dataset_path:
        raise UserError("no data set is given; add --dataset_path <folder with train/ and val/>, or --dataset with one "
                        f"of the allowed: {', '.join(DATASETS)} (digits are embedded, to try things out)")
    name = dataset or "folder"
    check_choice(name, DATASETS, "dataset (--dataset)")
    train, official = _open(name, dataset_path, labelled)
    scale = crop_scale_min or _least_crop(name)
    if not 0 < scale <= 1:
        raise UserError(f"crop_scale_min {crop_scale_min}; allowed: above 0, at most 1 (or 0 for the data set's own)")
    if not 0 < eval_crop <= 1:
        raise UserError(f"eval_crop {eval_crop}; allowed: above 0, at most 1")
    # A mirrored digit is another sign.
    info = DataInfo(name, train.classes, IMAGENET_MEAN, IMAGENET_STD, hflip=name not in EMBEDDED,
                    crop_scale=(scale, 1.0), eval_crop=eval_crop, path=str(dataset_path or ""))
    everything = np.arange(len(official))
    if not valid_size or valid_size < 0:
        return Data(info, train, np.arange(len(train)), official, everything, official, everything)
    train_indices, valid_indices = split(len(train), valid_size)
    return Data(info, train, train_indices, train, valid_indices, official, everything)


def split(count: int, valid_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation indices: the fixed permutation of `count` images, cut after `valid_size`. For 1000 images
    and 200 held out, shapes (800,) and (200,). UserError if that leaves no image to train on."""
    import torch

    if valid_size >= count:
        raise UserError(f"validation size {valid_size} (--valid_size) leaves none of the {count} training images; "
                        f"allowed: 0 to {count - 1}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    return order[valid_size:], order[:valid_size]


def _open(name: str, path: str | None, labelled: bool) -> tuple[ImageSource, ImageSource]:
    if name in EMBEDDED:
        if path:
            raise UserError(f"dataset path {str(path)!r} given with dataset {name!r}, which is embedded; "
                            "allowed: no path, or --dataset folder")
        return EMBEDDED[name]()
    if name == "folder":
        from modules.datasets.folder import open_path, open_unlabelled

        if not path:
            raise UserError("dataset 'folder' without a path; allowed: --dataset_path <folder of the images>")
        return _held(open_path(path) if labelled else open_unlabelled(path))
    from modules.datasets.torchvision_sets import open_torchvision

    return _held(open_torchvision(name, path))


def _held(sources: tuple[ImageSource, ImageSource]) -> tuple[ImageSource, ImageSource]:
    from modules.datasets.held import hold_if_small
    from modules.datasets.sources import EncodedSource

    return tuple(hold_if_small(source) if isinstance(source, EncodedSource) else source for source in sources)
