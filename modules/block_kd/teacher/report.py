"""What a teacher's training tells: its log files, TensorBoard scalars, progress bar."""
from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from modules.training.evaluation import Accuracy
from modules.utils import dist


class TeacherReport:
    """Writes `train.log`, `eval.log` and `tensorboard/` to `folder`, with `lsq_` before the names for an int8 teacher;
    only the first process does."""

    def __init__(self, folder: Path, name: str, fresh: bool):
        self.folder, self.name, self.active = folder, name, dist.rank() == 0
        self.prefix = "" if name == "checkpoint" else f"{name}_"
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                for log in ("train.log", "eval.log"):  # of a run that is replaced
                    (folder / (self.prefix + log)).unlink(missing_ok=True)
            self.writer = SummaryWriter(str(folder / f"{self.prefix}tensorboard"))

    def write(self, line: str, name: str = "train.log") -> str:
        """Write a line into a log file alone; return it as it stands there, with the time before it."""
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} | {line}"
        with open(self.folder / (self.prefix + name), "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line

    def _log(self, name: str, line: str) -> None:
        line = self.write(line, name)
        if not sys.stderr.isatty():
            print(line, flush=True)

    def progress(self, epoch: int, epochs: int, steps: int, start: int):
        """A progress bar for one epoch, off where there is no terminal."""
        from tqdm import tqdm

        return tqdm(total=steps, initial=start, desc=f"teacher {epoch + 1}/{epochs}",
                    disable=not (self.active and sys.stderr.isatty()))

    def train(self, epoch: int, step: int, steps: int, loss: float, right: float, lr: float) -> None:
        """Mean loss and share of right answers since the last call."""
        if self.active:
            self._log("train.log", f"epoch {epoch} | batch {step}/{steps} | loss {loss:.2f} | acc1 {100 * right:.2f} | "
                                   f"lr {lr:.5f}")
            for tag, value in (("loss", loss), ("acc1", 100 * right), ("lr", lr)):
                self.writer.add_scalar(f"train/{tag}", value, epoch * steps + step)

    def evaluation(self, epoch: int, results: dict[int, Accuracy]) -> None:
        """Accuracy on the validation set after `epoch`, by resolution; the largest comes first."""
        if self.active:
            best, *others = sorted(results, reverse=True)
            accuracy = results[best]
            smaller = "".join(f" | acc1@{r} {results[r].top1:.2f}" for r in others)
            self._log("eval.log", f"epoch {epoch} | acc1 {accuracy.top1:.2f} | acc5 {accuracy.top5:.2f} | "
                                  f"loss {accuracy.loss:.4f}{smaller}")
            for resolution, accuracy in results.items():
                self.writer.add_scalar(f"valid/acc1/{resolution}", accuracy.top1, epoch)
                self.writer.add_scalar(f"valid/loss/{resolution}", accuracy.loss, epoch)
            self.writer.flush()

    def close(self) -> None:
        """Flush what is open."""
        if self.active:
            self.writer.close()
