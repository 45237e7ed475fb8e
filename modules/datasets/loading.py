"""Batches for training and evaluation; order and augmentation depend on (seed, epoch, index) alone.

The numbers of workers and ranks do not change an image, and neither does a resume in the middle of an epoch. A resumed
epoch yields exactly the batches of an uninterrupted one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from modules.datasets.build import Data
from modules.datasets.shift import Shift, ShiftedBatches, steps_of_epoch
from modules.datasets.sources import ImageSource
from modules.utils.errors import UserError
from modules.utils.processes import end_with_parent

_IMAGE_STREAM = 2  # apart from the draws of a training for (epoch, step), which would be those of image `step`


class TransformedDataset(torch.utils.data.Dataset):
    """Item (epoch, index) -> (tensor, label): the image transformed with the generator of (seed, epoch, index).
    `labels`, int64 (n,): other ones than the source's."""

    def __init__(self, source: ImageSource, transform: Callable, seed: int = 0, labels: np.ndarray | None = None):
        self.source, self.transform, self.seed = source, transform, seed
        self.labels = source.labels if labels is None else labels

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = key
        # A spawn key: plain seeds are padded with zeros, and (seed, epoch) and (seed, epoch, 0) would be one stream.
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index, _IMAGE_STREAM)))
        return self.transform(self.source.image(index), rng), int(self.labels[index])


class _Steps:
    """The batch sampler: for each step the (epoch, index) keys of its images, made when the loader needs them."""

    def __init__(self, epoch: int, indices: np.ndarray, batch_size: int, steps: range):
        self.epoch, self.indices, self.batch_size, self.steps = epoch, indices, batch_size, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            start = step * self.batch_size
            yield [(self.epoch, index) for index in self.indices[start:start + self.batch_size].tolist()]


class Batches:
    """One epoch's batches on one rank. `len` is their number in the whole epoch; iteration begins at `start_step`."""

    def __init__(self, dataset: TransformedDataset, epoch: int, indices: np.ndarray, batch_size: int, *,
                 start_step: int = 0, num_workers: int = 0):
        self.dataset, self.num_workers = dataset, num_workers
        steps = steps_of_epoch(len(indices), batch_size, start_step)
        self.length, self.steps = steps.stop, _Steps(epoch, indices, batch_size, steps)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self.num_workers > 0:
            self.dataset.source.prepare(index for step in self.steps for _, index in step)
        loader = torch.utils.data.DataLoader(
            self.dataset, batch_sampler=self.steps, num_workers=self.num_workers,
            pin_memory=torch.cuda.is_initialized(),  # a process that computes on the CPU opens no GPU
            worker_init_fn=partial(_start_worker, os.getpid()),
            generator=torch.Generator())  # its own: otherwise each epoch would draw from the global one
        try:
            yield from loader
        except UserError as error:
            # From a worker the message arrives inside a traceback; the user must see only one line.
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from None
        except RuntimeError as error:
            if any(words in str(error) for words in ("killed by signal: Killed", ") exited unexpectedly")):
                raise UserError(f"one of the {self.num_workers} loader processes was killed, probably by the system "
                                "for want of memory; load with fewer (--num_workers, of supernets "
                                "--data_loader_workers_per_gpu), or with 0 of them") from None
            if not _short_of_shared_memory(str(error)):
                raise
            raise UserError(
                f"the {self.num_workers} loader processes have too little shared memory: /dev/shm has "
                f"{shutil.disk_usage('/dev/shm').total >> 10} KiB; load without them (--num_workers 0, of supernets "
                "--data_loader_workers_per_gpu 0), or give more (docker run --shm-size 2g)") from None


def _start_worker(parent: int, number: int) -> None:
    end_with_parent(parent)


def _short_of_shared_memory(message: str) -> bool:
    """Whether a loader's error means that /dev/shm is full."""
    return any(words in message for words in ("Bus error", "unable to write to file </torch", "unable to mmap",
                                              "unable to allocate shared", "No space left on device"))


def train_batches(data: Data, transform: Callable, *, batch_size: int, seed: int, epoch: int, start_step: int = 0,
                  rank: int = 0, world_size: int = 1, num_workers: int = 0, drop_last: bool = False,
                  device: torch.device | str = "cpu", labels: np.ndarray | None = None) -> Batches | ShiftedBatches:
    """The `Batches` of rank `rank` in training epoch `epoch`: images float32 [B, 3, S, S], labels int64 [B], such as
    [64, 3, 224, 224] and [64].

    The order of the training images is drawn from (seed, epoch); each rank takes every `world_size`-th one. The order
    continues from its start until all ranks have equally many images and so make the same number of steps. It also
    continues until a last batch of one image has two: batch norm has no variance over one image with features of one
    pixel. For example, 65 images in batches of 64 on one rank give 64 and 2 images. The number of steps depends only on
    the images of a step over all ranks. So do the images of each step, except for repeated ones: 4 ranks with batches
    of 16 make the steps of one rank with batches of 64. With `drop_last` the images that fill no step of all ranks are
    left out. Batches of augmentation "shift" are made on `device`. `labels`, int64 (n,), replace those of `data.train`,
    such as the numbers of its images.

    Raises:
        UserError: `drop_last` leaves no step.
    """
    indices = data.train_indices
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,))).permutation(len(indices))
    if drop_last:
        per_rank = len(indices) // (batch_size * world_size) * batch_size
        if not per_rank:
            most = len(indices) // world_size
            raise UserError(f"batch size {batch_size} with drop_last leaves no batch of {most} training images per "
                            f"process; allowed: {f'2 to {most}, or ' * (most > 1)}no drop_last")
    else:
        per_rank = -(-len(indices) // world_size)
        per_rank += per_rank % batch_size == 1 and batch_size > 1
    order = np.resize(order, per_rank * world_size)  # repeats from the start
    if isinstance(transform, Shift):
        return ShiftedBatches(data, transform, seed, epoch, order[rank::world_size], batch_size, start_step=start_step,
                              device=device, labels=labels)
    return Batches(TransformedDataset(data.train, transform, seed, labels), epoch, indices[order[rank::world_size]],
                   batch_size, start_step=start_step, num_workers=num_workers)


def eval_batches(source: ImageSource, indices: np.ndarray, transform: Callable, *, batch_size: int, rank: int = 0,
                 world_size: int = 1, num_workers: int = 0) -> Batches:
    """The `Batches` of rank `rank` over `indices` of `source`, in order: images float32 [B, 3, S, S], labels int64 [B].

    Over all ranks every image comes exactly once. A rank may have one image fewer than another, or none.
    """
    return Batches(TransformedDataset(source, transform), 0, np.asarray(indices)[rank::world_size], batch_size,
                   num_workers=num_workers)
