"""Accuracy of subnets of a trained supernet: the model, its data and the calibration images, loaded once."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from modules.datasets.announce import announce
from modules.datasets.build import Data, data_of, load_data
from modules.datasets.classes import follow_classes
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.modeling.network import resize
from modules.modeling.restore import ModelRecord, load_supernet
from modules.modeling.supernet import Supernet
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.reference import Network
from modules.training.calibration import load_calibration_images
from modules.training.evaluation import Accuracy, evaluate, extract_calibrated
from modules.utils import dist
from modules.utils.errors import UserError
from modules.utils.notes import print_once, say

CACHED_IMAGES = 50_000_000  # pixels of an evaluation set that stays in memory between subnets: 600 MB


class SubnetEvaluator:
    """Evaluates subnets of a supernet; `open` makes one from a checkpoint file.

    Args:
        path: the checkpoint of the supernet, for messages.
        model, record: the supernet, in eval mode on its device, and the record of its training.
        data: the images.
        valid_size: training images that are held out for validation; 0: evaluations use the validation set.
        augment: of the calibration images; that of training when empty.
        batch_size: images per batch, in calibration too.
        calibration_batches: number of training batches that calibrate batch norm.
        limit_batches: most batches of an evaluation; 0: all.
        print_freq: batches between lines of progress on standard error; 0: none.
    """

    def __init__(self, path: str | Path, model: Supernet, record: ModelRecord, data: Data, *, valid_size: int = 0,
                 augment: str = "", batch_size: int = 32, calibration_batches: int = 32, limit_batches: int = 0,
                 num_workers: int = 0, seed: int = 0, print_freq: int = 0):
        self.path, self.model, self.record, self.data, self.valid_size = path, model, record, data, valid_size
        self.space, self.quant_mode = model.config, record.quant is not None
        self.device = next(model.parameters()).device
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.augment = augment or record.augment
        self.calibration_batches, self.limit_batches = calibration_batches, limit_batches
        self.print_freq = print_freq
        self._calibration = None
        self._images: dict[bool, list] = {}
        self._resized: dict[str, tuple[int, list]] = {}

    @classmethod
    def open(cls, path: str | Path, space: SupernetConfig, *, quant_mode: bool, dataset: str = "",
             dataset_path: str = "", valid_size: int | None = 0, device: torch.device | None = None,
             **settings) -> SubnetEvaluator:
        """The evaluator of the checkpoint file `path`.

        Args:
            space: the expected search space.
            quant_mode: evaluate in int8.
            dataset, dataset_path: as of `load_data`; the data set of training when both are empty.
            valid_size: as of `load_data`; None: that of training. A larger one than that is warned of: the split is a
                fixed permutation cut after so many images, and training saw the others.
            settings: the other arguments of the constructor.

        Raises:
            UserError: a checkpoint that is missing, damaged, or of another space or mode; bad images, as `load_data`;
                classes that the checkpoint does not have.
        """
        model, record = load_supernet(path, space, quant_mode)
        if record.quant and not quant_mode:
            say(f"checkpoint {str(path)!r} is of an INT8 training; it runs in float without --quant_mode")
            record = replace(record, quant=None)
        dataset, dataset_path = data_of(dataset, dataset_path, record)
        valid_size = record.valid_size if valid_size is None else max(valid_size, 0)
        # The crops of training, for its batch-norm statistics; another data set has its own.
        same = (dataset or "folder") == record.dataset
        if valid_size > record.valid_size and (same or not record.named):
            print_once(f"warning: the checkpoint was trained on {valid_size - record.valid_size} of the {valid_size} "
                       f"images of --valid_size (training held out {record.valid_size}); accuracies are too high. "
                       f"Train with --valid_size {valid_size}", sys.stderr)
        crop_scale_min = record.training.get("crop_scale_min", 0.0) if same else 0.0
        data = load_data(dataset or None, dataset_path or None, valid_size, crop_scale_min, record.eval_crop)
        data = data.normalised(record.mean, record.std)
        announce(data, record.resolutions)
        data = follow_classes(data, record.classes, f"checkpoint {str(path)!r}", record.named)
        return cls(path, model.to(device or "cpu"), record, data, valid_size=valid_size, **settings)

    def choice_of(self, network: Network) -> SubnetChoiceConfig:
        """The subnet that `network` names; of a fixed network without a resolution the one that was trained."""
        only = self.record.only_subnet if network.fixed and network.own_resolution else None
        return only or self.model.subnets.check(network.subnet)

    @property
    def calibration(self) -> list[torch.Tensor]:
        """This process's first training batches, loaded once: images (N, 3, H, W), such as (32, 3, 224, 224)."""
        if self._calibration is None:
            transform = train_transform(self.augment, self.record.crop_size, self.data.info)
            self._calibration = load_calibration_images(
                self.data, transform, self.calibration_batches, batch_size=self.batch_size, seed=self.seed,
                num_workers=self.num_workers)
        return self._calibration

    def validation_batches(self, test: bool = False) -> Iterator:
        """Batches of (images, labels) of the validation part, or of the test part; a small part stays in memory."""
        return self._reported(self._batches(test))

    def _reported(self, batches) -> Iterator:
        """`batches`, with a line on standard error after every `print_freq` of them."""
        for number, batch in enumerate(batches, start=1):
            yield batch
            if self.print_freq and number % self.print_freq == 0 and dist.rank() == 0:
                print(f"{number} batches evaluated", file=sys.stderr, flush=True)

    def _batches(self, test: bool):
        if test in self._images:
            return self._images[test]
        data, size = self.data, self.record.crop_size
        source, indices = (data.test, data.test_indices) if test else (data.valid, data.valid_indices)
        batches = eval_batches(source, indices, eval_transform(size, data.info), batch_size=self.batch_size,
                               rank=dist.rank(), world_size=dist.world_size(), num_workers=self.num_workers)
        if self.limit_batches:
            batches = [batch for batch, _ in zip(batches, range(self.limit_batches), strict=False)]
        if self.limit_batches or len(indices) * size**2 <= CACHED_IMAGES:
            self._images[test] = batches = list(batches)
        return batches

    def subnet(self, choice: SubnetChoiceConfig):
        """Subnet `choice` as a static network in eval mode, calibrated unless published statistics hold; UserError if
        another one was trained alone."""
        if self.record.only_subnet not in (None, choice):
            raise UserError(f"subnet {choice} of {str(self.path)!r}: only {self.record.only_subnet} was trained there")
        self.load_at(choice.resolution)
        images = None
        if not self.record.keeps_statistics:
            images = self._at("calibration", choice.resolution, self.calibration)
        return extract_calibrated(self.model, choice, images)

    def load_at(self, resolution: int) -> None:
        """Load images of `resolution` pixels from now on, if the weights hold for any."""
        if self.record.any_resolution and resolution != self.record.crop_size:
            self.record = replace(self.record, resolutions=(resolution,))
            self._calibration = None
            self._images.clear()
            self._resized.clear()
            announce(self.data, self.record.resolutions)

    def accuracy(self, choice: SubnetChoiceConfig, test: bool = False) -> Accuracy:
        """Accuracy of subnet `choice` on the validation part, or on the test part."""
        net, batches = self.subnet(choice), self._batches(test)
        if test in self._images:
            images = self._at(f"part {test}", choice.resolution, [images for images, _ in batches])
            batches = [(x, labels) for x, (_, labels) in zip(images, batches, strict=True)]
        return evaluate(net, self._reported(batches), f"subnet {choice} of {str(self.path)!r}")

    def _at(self, name: str, resolution: int, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        """`batches` on the device at `resolution`. They stay until another resolution is needed: subnets in the order
        of their resolutions share the work."""
        if name not in self._resized or self._resized[name][0] != resolution:
            self._resized[name] = resolution, [resize(images.to(self.device), resolution) for images in batches]
        return self._resized[name][1]
