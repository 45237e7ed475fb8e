"""The training loop on a network of one weight: continuation, saves, refusals."""
import numpy as np
import pytest
import torch

from modules.training.loop import trainee as saving
from modules.training.loop.epochs import Pace, Task, train_all
from modules.training.loop.report import Report, log_patterns
from modules.training.loop.trainee import Position, Trainee
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.runs import Run

SETTINGS = {"rate": 0.1, "batch_size": 4}


class Slope(Trainee):
    """One weight that follows the numbers it is given."""

    def __init__(self, folder, *, resume=False, **settings):
        self.settings = SETTINGS | settings
        super().__init__(Run(folder / "w.pth", logs=log_patterns("", "train.log"), resume=resume, overwrite=False,
                             option="--out"),
                         Report(folder), batch_size=self.settings["batch_size"], batch_option="batch_size", seed=0,
                         remedy="a smaller --rate")
        self.weight, self.seen, self.copies = torch.zeros(1, dtype=torch.float64), [], ()

    def begin(self):
        checkpoint = load_checkpoint(self.path) if self.files.continues else {}
        if checkpoint:
            self.go_on(checkpoint, checkpoint["settings"], self.settings, (), checkpoint["epoch"])
            self.weight = checkpoint["weight"]
        self.files.begin(checkpoint.get("logs"))
        return self

    def train_step(self, batch, steps):
        self.seen.append((self.position, batch))
        self.weight = self.weight + self.settings["rate"] * (batch - self.weight)
        return self.weight

    def report_means(self, means, steps):
        self.report.log("train.log", f"{self.position.epoch} {self.position.step}/{steps} {means[0]!r}")

    def state(self):
        return {"epoch": self.position.epoch, "weight": self.weight, "settings": self.settings}


class Numbers(Task):
    """Ten numbers an epoch, from a stream of its own for each."""

    title = "numbers"

    def batches(self, start):
        return _Epoch(start)

    def prepare(self, images, labels, at):
        return images

    def end_epoch(self, trainees):
        for trainee in trainees:
            trainee.save(*trainee.copies)


class _Epoch:
    def __init__(self, start):
        self.start = start

    def __len__(self):
        return 10

    def __iter__(self):
        numbers = np.random.default_rng(self.start.epoch).normal(size=10)[self.start.step:]
        return ((torch.tensor([number]), None) for number in numbers.tolist())


PACE = Pace(epochs=3, print_freq=2, checkpoint_minutes=0)


def train(folder, pace=PACE, stop=None, **arguments) -> Slope:
    """Train in `folder`; stop before the step `stop` as a killed process would."""
    slope = Slope(folder, **arguments)
    step = slope.train_step

    def stopping(batch, steps):
        if slope.position == stop:
            raise KeyboardInterrupt
        return step(batch, steps)

    slope.train_step = stopping
    with slope.files:
        slope.begin()
        try:
            train_all(Numbers(), [slope], pace)
        except KeyboardInterrupt:
            assert stop
    return slope


def lines(folder) -> list[str]:
    return [line.split(" | ", 1)[1] for line in (folder / "train.log").read_text().splitlines()]


@pytest.mark.parametrize("stop", [Position(0, 5), Position(1, 0), Position(1, 6), Position(2, 9)])
def test_a_stopped_run_ends_like_a_whole_one(tmp_path, stop):
    whole = train(tmp_path / "whole")
    assert [at for at, _ in whole.seen] == [Position(epoch, step) for epoch in range(3) for step in range(10)]
    train(tmp_path / "parts", stop=stop)
    resumed = train(tmp_path / "parts", resume=True)
    assert torch.equal(whole.weight, resumed.weight)
    assert resumed.seen == whole.seen[-len(resumed.seen):]
    assert len(resumed.seen) < 31 - stop.epoch * 10 - stop.step + PACE.print_freq
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")  # none twice
    a, b = (load_checkpoint(tmp_path / part / "w.pth") for part in ("whole", "parts"))
    assert (a["epoch"], a["step"], a["images_per_step"]) == (b["epoch"], b["step"], b["images_per_step"]) == (3, 0, 4)


def test_the_means_are_those_of_the_steps_between_reports(tmp_path):
    slope = train(tmp_path, Pace(1, 4, 99))
    numbers, weight, values = np.random.default_rng(0).normal(size=10), 0.0, []
    for number in numbers:
        weight += 0.1 * (number - weight)
        values.append(weight)
    logged = [line.split() for line in lines(tmp_path)]
    assert [step for _, step, _ in logged] == ["4/10", "8/10", "10/10"]
    assert [float(mean) for *_, mean in logged] == pytest.approx([np.mean(values[i:i + 4]) for i in (0, 4, 8)])
    assert slope.weight.item() == pytest.approx(weight)


def test_trainees_apart_meet_again(tmp_path):
    """One was saved three steps, the other an epoch before the kill."""
    whole = train(tmp_path / "whole")
    slopes = []
    for name, start in (("a", Position(0, 7)), ("b", Position(1, 0)), ("c", Position())):
        slope = Slope(tmp_path / name)
        slope.position = start
        slopes.append(slope)
    train_all(Numbers(), slopes, Pace(3, 2, 99))
    for slope, missing in zip(slopes, (7, 10, 0), strict=True):
        assert slope.seen == whole.seen[missing:]


def test_a_limit_ends_every_epoch(tmp_path):
    slope = train(tmp_path, Pace(2, 1, 99, limit=3))
    assert [at for at, _ in slope.seen] == [Position(epoch, step) for epoch in range(2) for step in range(3)]


def test_what_is_not_finite_is_not_saved(tmp_path):
    good = train(tmp_path, Pace(1, 2, 0))
    slope = Slope(tmp_path, resume=True)
    step = slope.train_step
    slope.train_step = lambda batch, steps: step(batch + (torch.inf if slope.position.step else 0), steps)
    with slope.files:
        slope.begin()
        with pytest.raises(UserError, match=r"diverged in epoch 1, batch 2; .*w\.pth' is kept, try a smaller --rate"):
            train_all(Numbers(), [slope], PACE)
    slope.weight = slope.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="tensor 'weight' has become NaN"):
        slope.save(tmp_path / "copy.pth")
    assert torch.equal(load_checkpoint(tmp_path / "w.pth")["weight"], good.weight)
    assert not (tmp_path / "copy.pth").exists()


def test_the_file_to_go_on_from_is_written_last(tmp_path, monkeypatch):
    """A kill between two files leaves the earlier state, from which the copies come once more."""
    written = []

    def killed(path, state):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path.name)
        save_checkpoint(path, state)

    slope = Slope(tmp_path)
    slope.copies = (tmp_path / "best.pth",)
    with slope.files:
        slope.begin().save()
        monkeypatch.setattr(saving, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train_all(Numbers(), [slope], Pace(1, 2, 99))
    assert written == ["best.pth"]
    assert load_checkpoint(tmp_path / "w.pth")["epoch"] == 0


@pytest.mark.parametrize(("entries", "settings", "message"), [
    ({}, {"batch_size": 2}, r"a step had 4 images when .*w\.pth' was written and has 2 now \(number of processes 1, "
                            r"batch_size 2\); a continued run keeps their product"),
    ({"images_per_step": 8}, {}, "a step had 8 images .* has 4 now"),
    ({}, {"rate": 0.2}, r"rate was 0\.1 when .* and is 0\.2 now"),
])
def test_a_run_that_would_change_is_not_continued(tmp_path, entries, settings, message):
    train(tmp_path, Pace(1, 2, 99))
    save_checkpoint(tmp_path / "w.pth", load_checkpoint(tmp_path / "w.pth") | entries)
    with pytest.raises(UserError, match=message):
        train(tmp_path, resume=True, **settings)


def test_as_many_images_from_other_processes_go_on(tmp_path):
    """Two processes of 2 images instead of one of 4; a file of before that was told goes on with as many processes."""
    train(tmp_path, stop=Position(1, 5))
    state = load_checkpoint(tmp_path / "w.pth")
    state["settings"] = state["settings"] | {"batch_size": 2}
    save_checkpoint(tmp_path / "w.pth", state)
    assert train(tmp_path, resume=True).seen[0][0] == Position(1, 4)
    older = tmp_path / "older"
    train(older, stop=Position(1, 5))
    state = load_checkpoint(older / "w.pth")
    del state["images_per_step"], state["logs"]
    save_checkpoint(older / "w.pth", state)
    assert train(older, resume=True).seen[0][0] == Position(1, 4)
    save_checkpoint(older / "w.pth", state)
    with pytest.raises(UserError, match="a step had 4 images"):
        train(older, resume=True, batch_size=2)
