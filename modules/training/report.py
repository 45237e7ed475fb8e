"""What a training run tells: log file, TensorBoard scalars, progress bar, figure of the curves."""
from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from modules.utils import dist
from modules.utils.figures import new_figure, save_figure


class TrainingReport:
    """Writes to `folder`; only the first process does. `history` collects the validations, and is in checkpoints."""

    def __init__(self, folder: Path, name: str, history: list[dict]):
        self.folder, self.name, self.history = folder, name, history
        self.active = dist.rank() == 0
        self.prefix = "" if name == "checkpoint" else f"{name}_"
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            folder.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(folder / f"{self.prefix}tensorboard"))

    def log(self, line: str) -> None:
        """A line with the time, in the log file and on the terminal."""
        if self.active:
            line = self.write(line)
            if not sys.stderr.isatty():
                print(line, flush=True)

    def write(self, line: str) -> str:
        """Write a line into the log file alone; return it as it stands there, with the time before it."""
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} | {line}"
        with open(self.folder / f"{self.prefix}stdout.log", "a", encoding="utf-8") as file:
            file.write(line + "\n")
        return line

    def progress(self, epoch: int, epochs: int, steps: int, start: int):
        """A progress bar for one epoch, off where there is no terminal."""
        from tqdm import tqdm

        return tqdm(total=steps, initial=start, desc=f"{self.name} {epoch + 1}/{epochs}",
                    disable=not (self.active and sys.stderr.isatty()))

    def train(self, epoch: int, step: int, steps: int, max_loss: float, min_loss: float, min_right: float,
              lr: float) -> None:
        """Means since the last call."""
        self.log(f"epoch {epoch} | step {step}/{steps} | max loss {max_loss:.4f} | min loss {min_loss:.4f} | "
                 f"min acc1 {100 * min_right:.2f} | lr {lr:.6f}")
        if self.active:
            iteration = epoch * steps + step
            for tag, value in (("loss/max", max_loss), ("loss/min", min_loss), ("acc1/min", 100 * min_right),
                               ("lr", lr)):
                self.writer.add_scalar(f"train/{tag}", value, iteration)

    def validation(self, epoch: int, results: dict) -> None:
        """Accuracies of the validated subnets after `epoch` epochs."""
        line = " | ".join(f"{name}_net_acc1 {accuracy.top1:.4f}" for name, accuracy in results.items())
        self.history.append({"epoch": epoch, **{name: accuracy.top1 for name, accuracy in results.items()}})
        self.log(f"acc1 epoch {epoch} | {line}")
        if self.active:
            with open(self.folder / f"{self.prefix}valid_acc.log", "a") as file:
                file.write(f"acc1 epoch {epoch} | {line}\n")
            for name, accuracy in results.items():
                self.writer.add_scalar(f"valid/acc1/{name}", accuracy.top1, epoch)
                self.writer.add_scalar(f"valid/loss/{name}", accuracy.loss, epoch)
            self.writer.flush()
            self._draw()

    def _draw(self) -> None:
        figure = new_figure(6, 4)
        axes = figure.subplots()
        for name in [name for name in self.history[-1] if name != "epoch"]:
            axes.plot([h["epoch"] for h in self.history], [h[name] for h in self.history], marker="o", label=name)
        axes.set(xlabel="epoch", ylabel="validation top-1, %", title=f"{self.folder.name} ({self.name})")
        axes.grid(alpha=0.3)
        axes.legend(title="subnet")
        save_figure(figure, self.folder / f"{self.prefix}curves.png")

    def close(self) -> None:
        """Flush what is open."""
        if self.active:
            self.writer.close()
