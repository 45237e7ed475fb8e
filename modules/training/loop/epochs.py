"""Epochs and steps of one or several networks that train on the same batches."""
from __future__ import annotations

import itertools
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from modules.training.loop.trainee import Position, Trainee
from modules.utils import dist


@dataclass(frozen=True)
class Pace:
    """Length of a training, and intervals between reports and saves.

    Args:
        epochs: total number.
        print_freq: steps between reports.
        checkpoint_minutes: least minutes between saves within an epoch; a save follows a report.
        limit: most steps of an epoch; 0: all.
    """

    epochs: int
    print_freq: int
    checkpoint_minutes: float
    limit: int = 0


class Task(ABC):
    """The common batches of one or several trainees."""

    title: str

    @abstractmethod
    def batches(self, start: Position):
        """The `Batches` of an epoch from a step on."""

    @abstractmethod
    def prepare(self, images: torch.Tensor, labels: torch.Tensor, at: Position):
        """The input of the trainees' steps, computed once for all of them."""

    @abstractmethod
    def end_epoch(self, trainees: Sequence[Trainee]) -> None:
        """Evaluate and save the trainees that have just finished an epoch."""


def train_all(task: Task, trainees: Sequence[Trainee], pace: Pace) -> None:
    """Train to the last epoch. Trainees that are ahead wait for the others; this happens after a kill between two
    saves."""
    while (epoch := min(trainee.position.epoch for trainee in trainees)) < pace.epochs:
        active = [trainee for trainee in trainees if trainee.position.epoch == epoch]
        _train_epoch(task, active, pace)
        for trainee in active:
            trainee.position = Position(epoch + 1)
        task.end_epoch(active)


def _train_epoch(task: Task, trainees: Sequence[Trainee], pace: Pace) -> None:
    start = min(trainee.position for trainee in trainees)
    batches = task.batches(start)
    steps, saved = min(len(batches), pace.limit or len(batches)), time.monotonic()
    with tqdm(total=steps, initial=start.step, desc=f"{task.title} {start.epoch + 1}/{pace.epochs}",
              disable=not (dist.rank() == 0 and sys.stderr.isatty())) as bar:
        for step, (images, labels) in enumerate(itertools.islice(batches, steps - start.step), start.step):
            at, last = Position(start.epoch, step), step + 1 == steps
            due = [trainee for trainee in trainees if trainee.position <= at]
            batch = task.prepare(images, labels, at)
            for trainee in due:
                trainee.make_step(batch, steps)
            bar.update()
            if last or (step + 1) % pace.print_freq == 0:
                for trainee in due:
                    trainee.tell(steps)
                # One process decides: clocks differ, and all have to save together.
                if dist.broadcast_object(time.monotonic() - saved > 60 * pace.checkpoint_minutes) and not last:
                    for trainee in due:
                        trainee.save()
                    saved = time.monotonic()
