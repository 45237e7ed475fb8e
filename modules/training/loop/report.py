"""Reports of a training run: log files, TensorBoard scalars, figure of the curves."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from modules.utils import dist
from modules.utils.figures import new_figure, save_figure


class Report:
    """Writes log files and `tensorboard/` to `folder`, with `prefix` before each name. Only the first process writes.

    `title` stands before the lines on the terminal, if several networks train together.
    """

    def __init__(self, folder: Path, prefix: str = "", title: str = ""):
        self.folder, self.prefix, self.title = folder, prefix, title
        self._writer = None

    def log(self, name: str, line: str) -> None:
        """Write a line with the time into the log file `name` and to the terminal, above progress bars."""
        if dist.rank() == 0:
            line = self.write(name, line)
            tqdm.write(f"{self.title}: {line}" if self.title else line, file=sys.stdout)
            sys.stdout.flush()

    def write(self, name: str, line: str) -> str:
        """Write a line with the time into the log file `name` alone, and return the written line."""
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} | {line}"
        self.append(name, line)
        return line

    def append(self, name: str, line: str) -> None:
        """Write a line without the time into the log file `name` alone."""
        if dist.rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / (self.prefix + name), "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Write to the TensorBoard events."""
        if dist.rank() == 0:
            if self._writer is None:
                # The sign by which TensorBoard does without TensorFlow, whose import takes seconds and prints lines.
                sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.folder / f"{self.prefix}tensorboard"))
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self) -> None:
        """Write the scalars that are still in memory."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        """Write the scalars that are still in memory, and end."""
        if self._writer:
            self._writer.close()
            self._writer = None


def log_patterns(prefix: str, *names: str) -> tuple[str, ...]:
    """The files that a `Report` with log files `names` appends to."""
    return tuple(prefix + name for name in (*names, "tensorboard"))


def draw_curves(history: Sequence[dict], path: Path, title: str) -> None:
    """A figure of validation accuracies; each entry of `history` is {"epoch": 4, "max": 71.3, "min": 60.1}."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name in [name for name in history[-1] if name != "epoch"]:
        axes.plot([h["epoch"] for h in history], [h[name] for h in history], marker="o", label=name)
    axes.set(xlabel="epoch", ylabel="validation top-1, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(title="subnet")
    save_figure(figure, path)
