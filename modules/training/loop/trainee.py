"""One network in training: its position, its file, the means of its losses."""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from modules.datasets.announce import announce
from modules.datasets.build import Data
from modules.training.loop.report import Report
from modules.utils import dist
from modules.utils.checkpoint import save_checkpoint
from modules.utils.errors import NotFinite, UserError
from modules.utils.files import write_manifest
from modules.utils.json_files import check_form
from modules.utils.runs import Run

_FORM = {"epoch": int, "step": int, "optimizer": {"state": dict, "param_groups": list}, "history": list}


@dataclass(frozen=True, order=True)
class Position:
    """Progress of a training: finished epochs, and steps of the next epoch."""

    epoch: int = 0
    step: int = 0


class Trainee(ABC):
    """One network in training.

    Args:
        files: its run; `files.path` is the file that its training continues from.
        report: its log files and scalars.
        batch_size: images of a step and process.
        batch_option: the setting of that name.
        seed: for the manifest.
        remedy: advice in the error about a diverged training.
        name: of the network, if several train together.
    """

    def __init__(self, files: Run, report: Report, *, batch_size: int, batch_option: str, seed: int, remedy: str,
                 name: str = ""):
        self.files, self.report, self.seed, self.remedy, self.name = files, report, seed, remedy, name
        self.batch_size, self.batch_option = batch_size, batch_option
        self.position, self.num_images = Position(), 0
        self._sums, self._count = None, 0

    optimizer: torch.optim.Optimizer

    @abstractmethod
    def train_step(self, batch, steps: int) -> torch.Tensor:
        """Make the step at `position`, one of `steps` in its epoch, on a batch from `Task.prepare`. Returns a vector of
        values, loss first; their means are reported."""

    @abstractmethod
    def report_means(self, means: list[float], steps: int) -> None:
        """Report the means of these values since the last call, over all processes; all are finite."""

    @abstractmethod
    def state(self) -> dict:
        """The trainee's part of the file; the loop adds its own."""

    @property
    def path(self) -> Path:
        """The file that the training continues from."""
        return self.files.path

    @property
    def images_per_step(self) -> int:
        """Images of one step over all processes."""
        return self.batch_size * dist.world_size()

    # -- start ------------------------------------------------------------------------------------------------------

    def check_agreed(self, settings: dict, images: int) -> None:
        """UserError if settings or numbers of training images, `images`, differ between processes."""
        self.num_images = images
        dist.check_agreed({"--resume": self.files.resume, "--overwrite": self.files.overwrite, **settings,
                           "the number of training images": images})

    def check_state(self, checkpoint: dict) -> dict:
        """The file's content if a training can go on from it; UserError that names the entry which is not as it
        should be."""
        return check_form(checkpoint, _FORM, repr(str(self.path)))

    def load_optimizer(self, checkpoint: dict) -> None:
        """Load the optimizer's state; UserError if it is that of other parameters."""
        with self.files.reading():
            self.optimizer.load_state_dict(checkpoint["optimizer"])

    def go_on(self, checkpoint: dict, before: dict, settings: dict, free: Collection[str], finished: int) -> None:
        """Continue at the position in `checkpoint`: `finished` epochs and some steps.

        The number of processes may differ if the number of images of a step over all processes is the same. Each step
        then has the same images (`train_batches`).

        Args:
            before, settings: the settings in the checkpoint, and the present ones.
            free: settings that may differ; `batch_option` may always differ.

        Raises:
            UserError: another setting, the number of training images, or that of a step, differs.
        """
        self.files.check_same(before, settings, {*free, self.batch_option})
        self.files.check_same({"the number of training images": checkpoint.get("num_images", self.num_images)},
                              {"the number of training images": self.num_images})
        # Older files lack the number of processes; they continue with the same number.
        images = checkpoint.get("images_per_step", before.get(self.batch_option, self.batch_size) * dist.world_size())
        if images != self.images_per_step:
            raise UserError(
                f"a step had {images} images when {str(self.path)!r} was written and has {self.images_per_step} now "
                f"(number of processes {dist.world_size()}, {self.batch_option} {self.batch_size}); a continued run "
                "keeps their product")
        self.position = Position(finished, checkpoint["step"])

    def begin(self, data: Data, resolutions: Iterable[int], checkpoint: dict, log: str) -> None:
        """Call this when nothing can be refused any more. The logs of an earlier run are removed, or cut back to the
        time of `checkpoint`. The images are announced, at the start of a run in `log` too."""
        self.files.begin(checkpoint.get("logs") if self.files.continues else None)
        announce(data, resolutions, None if self.files.continues else lambda line: self.report.write(log, line))

    # -- training ---------------------------------------------------------------------------------------------------

    def make_step(self, batch, steps: int) -> None:
        """Make the step at `position`, and move on."""
        values = self.train_step(batch, steps)
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1
        self.position = Position(self.position.epoch, self.position.step + 1)

    def tell(self, steps: int) -> None:
        """Report the means since the last call; UserError if they are not finite."""
        means = (dist.all_sum(self._sums / self._count) / dist.world_size()).tolist()
        self._sums, self._count = None, 0
        if not all(map(math.isfinite, means)):
            raise self.diverged(f"the losses are {', '.join(f'{value:.3g}' for value in means)}")
        self.report_means(means, steps)

    def diverged(self, why: str) -> UserError:
        """The error that ends a training with bad losses or weights."""
        of = f" of {self.name}" if self.name else ""
        return UserError(f"training{of} diverged in epoch {self.position.epoch}, batch {self.position.step}; the last "
                         f"checkpoint {str(self.path)!r} is kept, try {self.remedy}: {why}")

    def save(self, *copies: Path) -> None:
        """Write the state, to `copies` too. If a tensor in it is not finite, UserError is raised and nothing is
        written."""
        try:
            dist.on_first(lambda: self._write(copies))
        except NotFinite as error:
            raise self.diverged(str(error)) from None

    def _write(self, copies: Sequence[Path]) -> None:
        self.report.flush()
        state = self.state() | {"step": self.position.step, "images_per_step": self.images_per_step,
                                "num_images": self.num_images, "logs": self.files.log_sizes()}
        # The file to continue from comes last: a run killed before repeats the end of the epoch, and the copies.
        for path in (*copies, self.path):
            save_checkpoint(path, state)
        write_manifest(self.path, seed=self.seed, epoch=self.position.epoch, step=self.position.step)
