"""Augmentation in batches, on tensors: every image of a small set shifted by a few pixels and mirrored.

The set lies in memory as uint8, on the device of training; a batch is one gather from it. Draws depend on (seed,
epoch, index) alone, as in the other augmentations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from modules.datasets.build import Data, DataInfo
from modules.datasets.embedded import EMBEDDED
from modules.datasets.sources import ImageSource
from modules.datasets.torchvision_augment import ERASED_AREA, ERASED_RATIO
from modules.utils.errors import UserError

HELD_BYTES = 2**30  # pixels of a set that are held
MOST_LARGER = 1.5  # times the pixels of a network, up to which images are shifted
DECODED = 1024  # images that are decoded before they go to the device
ERASING_TRIES = 10  # as torchvision's: an image for which none fits stays whole
_ALLOWED = "allowed: images of one size that fit into memory, or --augment default"


class HeldPixels:
    """The images `indices` of `source` as one uint8 tensor [N, H, W, 3], such as [45000, 32, 32, 3], on `device`; each
    is decoded when it is first needed. UserError if they are too many to hold."""

    def __init__(self, source: ImageSource, indices: np.ndarray, device: torch.device | str):
        self.source, self.indices = source, indices
        self.missing = np.ones(len(indices), bool)
        first = source.array(int(indices[0]))
        if first.nbytes * len(indices) > HELD_BYTES:
            raise UserError(f"augmentation 'shift' of {len(indices)} images of {first.shape[1]} x {first.shape[0]} "
                            f"pixels; {_ALLOWED}")
        self.shape = first.shape
        side = min(first.shape[:2])  # of the centre, which evaluation crops too
        self.top, self.left = ((length - side) // 2 for length in first.shape[:2])
        self.pixels = torch.empty((len(indices), side, side, 3), dtype=torch.uint8, device=device)

    def prepare(self, places: np.ndarray | None = None) -> torch.Tensor:
        """All pixels, with those of the images at `places` among `indices` decoded; None: of all. UserError for another
        size."""
        places = np.flatnonzero(self.missing) if places is None else np.unique(places[self.missing[places]])
        for part in np.split(places, range(DECODED, len(places), DECODED)) if len(places) else ():
            decoded = np.empty((len(part), *self.pixels.shape[1:]), np.uint8)
            for row, index in zip(decoded, self.indices[part].tolist(), strict=True):
                image = self.source.array(index)
                if image.shape != self.shape:
                    raise UserError(f"augmentation 'shift' of images of {self.shape[1]} x {self.shape[0]} and "
                                    f"{image.shape[1]} x {image.shape[0]} pixels; {_ALLOWED}")
                row[:] = image[self.top:self.top + len(row), self.left:self.left + len(row)]
            where = torch.from_numpy(part).to(self.pixels.device)
            self.pixels[where] = torch.from_numpy(decoded).to(self.pixels.device)
            self.missing[part] = False
        return self.pixels


def held_pixels(source: ImageSource, indices: np.ndarray, device: torch.device | str) -> HeldPixels:
    """The images of `source` that are held on `device`, the same at every call with the same `indices`. Training may
    hold them on another device than calibration."""
    where = torch.empty(0, device=device).device  # "cuda" is "cuda:0" there
    held = source.held.get(where)
    if held is None or not np.array_equal(held.indices, indices):
        held = source.held[where] = HeldPixels(source, indices, where)
    return held


def suits(data: Data, size: int) -> bool:
    """Whether the training images are to be shifted, rather than cropped, where networks see `size` pixels, such as 32.

    They must have one size, not much above that, and fit into memory. A crop of a part of so small an image would leave
    too little of it. The embedded sets have crops of their own.
    """
    if data.info.name in EMBEDDED or max(data.train.image(int(data.train_indices[0])).size) > MOST_LARGER * size:
        return False
    try:
        held_pixels(data.train, data.train_indices, "cpu").prepare()
    except UserError:
        return False
    return True


class Shift:
    """The transform `--augment shift`: up to an eighth of the side (whole pixels, uniform) in both directions.

    Uncovered pixels show the mirrored border. If the data set allows it, half of the images are mirrored in even epochs
    and the other half in odd ones; the halves are drawn once from the seed. Every image is seen both ways equally
    often. With probability `erasing` a rectangle of an image is set to 0, the mean colour (Zhong et al., 2020).
    """

    def __init__(self, size: int, info: DataInfo, erasing: float = 0.0):
        self.size, self.info, self.erasing = size, info, erasing

    def draws(self, seed: int, epoch: int, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Shifts (rows, columns), int64 [count, 2] in -side/8 ... side/8, and a mask of mirrored images, bool [count];
        for example [50000, 2] and [50000]."""
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, 0, 0)))
        shifts = rng.integers(-(side // 8), side // 8 + 1, (count, 2))
        halves = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 0, 1))).integers(0, 2, count)
        return shifts, (halves + epoch) % 2 == 1 if self.info.hflip else np.zeros(count, bool)

    def erased(self, seed: int, epoch: int, count: int, side: int) -> np.ndarray:
        """Erased rectangles (top, left, bottom, right) in pixels, int64 [count, 4], such as [50000, 4]; all 0 for an
        image that stays whole. Area, ratio and place have torchvision's law of RandomErasing."""
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, 0, 3)))
        chosen = rng.random(count) < self.erasing
        areas = rng.uniform(*ERASED_AREA, (ERASING_TRIES, count)) * side**2
        ratios = np.exp(rng.uniform(*np.log(ERASED_RATIO), (ERASING_TRIES, count)))
        extents = np.rint(np.sqrt(np.stack((areas * ratios, areas / ratios), -1))).astype(np.int64)  # height, width
        fits = (extents < side).all(-1)
        extents = extents[fits.argmax(0), np.arange(count)] * (chosen & fits.any(0))[:, None]
        corners = rng.integers(0, side - extents + 1)
        return np.concatenate((corners, corners + extents), 1)


def steps_of_epoch(images: int, batch_size: int, start: int) -> range:
    """The steps from `start` to the end of an epoch of so many images; UserError if it has no such step."""
    length = -(-images // batch_size)
    if not 0 <= start <= length:
        raise UserError(f"start step {start} is not in the epoch; allowed: 0 to {length}")
    return range(start, length)


class ShiftedBatches:
    """One epoch's batches on one rank, as of `Batches`: images float32 [B, 3, S, S] normalised, labels int64 [B].

    Args:
        places: of the epoch's images on this rank, in order, among the training images.
        device: of the held images and of the batches.
        labels: int64 (n,), in place of those of `data.train`.
    """

    def __init__(self, data: Data, transform: Shift, seed: int, epoch: int, places: np.ndarray, batch_size: int, *,
                 start_step: int = 0, device: torch.device | str = "cpu", labels: np.ndarray | None = None):
        self.steps = steps_of_epoch(len(places), batch_size, start_step)
        self.batch_size, self.size = batch_size, transform.size
        self.held, self.needed = held_pixels(data.train, data.train_indices, device), places
        shifts, mirrored = transform.draws(seed, epoch, len(data.train_indices), self.held.pixels.shape[1])

        def place(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        self.places, self.shifts, self.mirrored = place(places), place(shifts[places]), place(mirrored[places])
        self.erased = place(transform.erased(seed, epoch, len(data.train_indices), self.size)[places]) if (
            transform.erasing) else None
        self.labels = place((data.train.labels if labels is None else labels)[data.train_indices[places]])
        mean, std = (torch.tensor(values, dtype=torch.float32, device=device) * 255
                     for values in (transform.info.mean, transform.info.std))
        self.factor, self.offset = 1 / std, mean / std

    def __len__(self) -> int:
        return self.steps.stop

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for step in self.steps:
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield self._images(part), self.labels[part]

    def _images(self, part: slice) -> torch.Tensor:
        pixels = self.held.prepare(self.needed[part])
        _, height, width, _ = pixels.shape
        rows = self._within(self.shifts[part, :1], height)
        columns = self._within(self.shifts[part, 1:], width)
        columns = torch.where(self.mirrored[part, None], columns.flip(1), columns)
        images = pixels[self.places[part, None, None], rows[:, :, None], columns[:, None, :]]
        images = (images * self.factor - self.offset).permute(0, 3, 1, 2)
        if images.shape[-2:] != (self.size, self.size):
            images = torch.nn.functional.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
        if self.erased is None:
            return images
        top, left, bottom, right = self.erased[part, :, None].unbind(1)
        along = torch.arange(self.size, device=images.device)
        inside = ((top <= along) & (along < bottom))[:, :, None] & ((left <= along) & (along < right))[:, None, :]
        return images.masked_fill(inside[:, None], 0.0)

    @staticmethod
    def _within(shifts: torch.Tensor, side: int) -> torch.Tensor:
        """Indices [B, side] that begin at `shifts` [B, 1]; indices beyond the border are mirrored at it."""
        indices = (shifts + torch.arange(side, device=shifts.device)).abs()
        return side - 1 - (side - 1 - indices).abs()
