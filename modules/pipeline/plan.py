"""Sizes of the steps of the pipeline: the budget divided by the cost of each step on this machine."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

from modules.block_kd.lut.proxy_tables import REFERENCE
from modules.block_kd.space_search.spaces import Spaces
from modules.pipeline.losses import Losses
from modules.pipeline.request import ACCURACY, AUTO, SCORE
from modules.pipeline.speed import BATCH, Speed

# Shares of the budget. The time that is left then trains the network found and its rival to the end (`plan_last`).
SHARES = {"teacher": 0.05, "blocks": 0.08, "blocks int8": 0.06, "tables": 0.06, "supernet": 0.17, "supernet int8": 0.04,
          "subnets": 0.05, "tuning": 0.10, "tuning int8": 0.04}
# Those that change without a supernet, where finalists learn from nothing.
SCORED_SHARES = {"supernet": 0.0, "supernet int8": 0.0, "subnets": 0.02, "tuning": 0.20, "tuning int8": 0.05}
# Of the images through the supernet in fp32; with fewer, subnets are chosen by SCORE. 0.7 passes cost 5 points of
# accuracy against no supernet, 4.4 gained 2 (docs/measured/cifar10.md, demo.md).
LEAST_PASSES = 2
# Batches that train students in fp32; with fewer, SCORE alone tells spaces apart. Students of 50 ranked them the wrong
# way round (docs/measured/ranking.md).
LEAST_TAUGHT = 100
LAST_INT8 = 0.1       # INT8 epochs of the last training as a share of those in fp32
# Of the last training's time. Its estimate leaves out validation and the start of scripts, and cores that are all busy
# slow each other: 1.24 times the estimate was seen.
MARGIN = 0.75
FINALISTS = 3         # subnets of evolution, and the smallest, that are trained further
TRAINED = FINALISTS + 1  # and random search's best; the best of all is taken
FOR_STUDENTS = ("teacher", "blocks", "blocks int8")
FOR_TABLES = (*FOR_STUDENTS, "tables")  # with given tables their time goes to the others
INT8 = 1.4            # time of a step with learned scales, in fp32 steps
LEAST_BATCHES = 50    # of an epoch, where the images are too many for an INT8 epoch of all
SUBNETS_PER_STEP = 4  # of the sandwich rule
FORWARD = 1 / 3       # share of the forward pass in a step
SCORING, SCORE_START = 64, 0.05  # passes of an image in a training-free score, and its seconds beside them
ROW_LATENCY = 0.03    # seconds
POPULATION = 6        # subnets of a round of the search
VALID_SHARE, MOST_VALID = 0.15, 5000
# Of a teacher, a student and a row of a table: most images of an evaluation, and batches that calibrate batch norm.
# With 5,000 images and 32 batches they took longer than the training.
EVALUATED, BLOCK_CALIBRATION = 500, 5
MOST_ROWS, MOST_SCORED_ROWS = 1000, 50  # of a table; by a score alone, 25 rank spaces no better than 14


@dataclass(frozen=True)
class Plan:
    """Sizes of the steps.

    Args:
        valid_size: training images held out of all training, for the search.
        steps: batches of an epoch of all trainings; of many images and a short budget, not all.
        resolution: pixels of the block tables, the largest of the supernet.
        evaluations: subnets that the search evaluates.
        calibration_batches: training batches that calibrate batch norm.
        score: that subnets are chosen by, without a supernet; "": by their accuracy in one.
        threads: of the CPU.
        amp: number format of all trainings but the last ones: "none" for fp32, or "bf16".
        last_amp: that of the last training, and `rival_amp` of its rival's.
        last_epochs: of the network found, after all others; as the following, 0 until `plan_last`.
        whole_epoch: batches of all training images.
    """

    valid_size: int
    steps: int
    resolution: int
    resolutions: tuple[int, ...]
    teacher_epochs: int
    block_batches: int
    block_int8_batches: int
    table_rows: int
    supernet_epochs: int
    supernet_int8_epochs: int
    evaluations: int
    calibration_batches: int
    tuning_epochs: int
    tuning_int8_epochs: int
    threads: int
    last_epochs: int = 0
    last_int8_epochs: int = 0
    rival_epochs: int = 0
    rival_int8_epochs: int = 0
    whole_epoch: int = 0
    score: str = ""
    amp: str = "none"
    last_amp: str = "none"
    rival_amp: str = "none"

    def __str__(self) -> str:
        blocks = (f"teacher {self.teacher_epochs} epochs; blocks {self.block_batches} and {self.block_int8_batches} "
                  f"batches of {BATCH} (fp32, int8); " if self.block_batches else "no teacher, no students; ")
        tables = f"{blocks}tables of {self.table_rows} rows; " if self.table_rows else ""
        supernet = f"supernet {self.supernet_epochs} and {self.supernet_int8_epochs} epochs; {self.evaluations} subnets"
        scored = f"no supernet; {self.evaluations} subnets scored by {self.score}"
        return (f"{self.threads} thread(s){', bf16' * (self.amp == 'bf16')}; {self.valid_size} training images held "
                f"out; {'/'.join(map(str, self.resolutions))} pixels; {self.length}{tables}"
                f"{scored if self.score else supernet + ' evaluated'}; the best of them trained for "
                f"{self.tuning_epochs} and {self.tuning_int8_epochs} epochs{' more' * (not self.score)}, then the one "
                "found in the time that is left")

    @property
    def shortened(self) -> bool:
        """Whether an epoch has not all images."""
        return self.steps < self.whole_epoch

    @property
    def length(self) -> str:
        """That of an epoch in words, where it is shortened."""
        return f"epochs of {self.steps} of all {self.whole_epoch} batches; " if self.shortened else ""

    def passes(self, epochs: int) -> float:
        """How often `epochs` see all training images."""
        return epochs * self.steps / max(self.whole_epoch, self.steps)

    def last(self) -> str:
        """The last step in words."""
        formats = {"none": "", "bf16": " in bf16"}
        rival = (f"; the rival for {self.rival_epochs} and {self.rival_int8_epochs}{formats[self.rival_amp]}"
                 if self.rival_epochs else "")
        return (f"the network found for {self.last_epochs} and {self.last_int8_epochs} epochs more"
                f"{formats[self.last_amp]}{rival}")


def make_plan(budget: float, images: int, spaces: Spaces, resolutions: tuple[int, ...], speed: Speed, losses: Losses,
              baselines: bool = True, fitness: str = ACCURACY) -> Plan:
    """The plan for `budget` seconds and `images` training images, from step times measured at the largest of
    `resolutions`.

    The start of the scripts is taken off the budget; at least a third of it stays. Each size fills its step's share of
    the rest, and is at least one; those of steps that `losses` do not need are 0. An epoch is so short that one in INT8
    fits its share. `fitness` is that of the request; without a supernet its sizes are 0.
    """
    budget = max(budget - count_scripts(losses, baselines) * speed.start, budget / 3)
    fill = partial(_fill, budget, images, spaces, resolutions, speed, losses)
    plan = fill("" if fitness in (AUTO, ACCURACY) else fitness)
    if fitness == AUTO and plan.passes(plan.supernet_epochs) < LEAST_PASSES:
        plan = fill(SCORE)
    return plan


def _fill(budget: float, images: int, spaces: Spaces, resolutions: tuple[int, ...], speed: Speed, losses: Losses,
          score: str) -> Plan:
    """The sizes that fill the shares of `budget` seconds, those of steps that `losses` do not need going to the others;
    with a `score` without a supernet."""
    shares = SHARES | SCORED_SHARES if score else SHARES
    unused = FOR_TABLES if losses.given else () if losses.students else FOR_STUDENTS
    budget /= 1 - sum(SHARES[name] for name in unused)
    valid = held_out(images)
    whole = max((images - valid) // BATCH, 1)
    kinds, stages = len(spaces.blocks), spaces.space.searched
    tables = sum(stage.num_windows for stage in stages) * kinds
    pass_seconds = speed.sandwich * FORWARD / SUBNETS_PER_STEP / BATCH  # of one image through one network
    calibration = min(max(whole // 4, 4), 32)
    seen, seen_of_block = valid + calibration * BATCH, min(valid, EVALUATED) + BLOCK_CALIBRATION * BATCH

    def size(name: str, seconds: float, most: float, least: int = 1, before: float = 0.0) -> int:
        if name in unused or not shares[name]:
            return 0
        return int(min(max((shares[name] * budget - before) / seconds, least), most))

    students = kinds * speed.sandwich + speed.teacher * FORWARD
    smaller = sum(r**2 for r in resolutions) / max(resolutions)**2 / len(resolutions)
    sandwich = speed.sandwich / speed.gain * smaller  # of the trainings, which may be in bf16
    tuned = speed.single / speed.gain * smaller / SUBNETS_PER_STEP * TRAINED / min(speed.threads, TRAINED)
    int8_steps = [shares[name] * budget / INT8 / step for name, step in (("supernet int8", sandwich),
                                                                         ("tuning int8", tuned)) if shares[name]]
    steps = int(min(max(min(int8_steps), LEAST_BATCHES), whole))
    epochs = whole / steps  # of all images
    evaluation = SCORING * pass_seconds + SCORE_START if score else seen * INT8 * pass_seconds
    row_score = (SCORING * pass_seconds / len(stages) + SCORE_START) * bool(losses.score)
    row = ROW_LATENCY + row_score + seen_of_block * INT8 * pass_seconds / len(stages) * losses.students
    return Plan(
        valid_size=valid, steps=steps, resolution=max(resolutions), resolutions=resolutions,
        teacher_epochs=size("teacher", (speed.teacher or 1) * steps * (1 + INT8 / 3), 200 * epochs),
        block_batches=size("blocks", students, 100 * whole, 4),
        block_int8_batches=size("blocks int8", INT8 * students, 100 * whole, 4),
        table_rows=size("tables", tables * row, MOST_ROWS if losses.students else MOST_SCORED_ROWS, 4,
                        REFERENCE * len(stages) * row_score),
        supernet_epochs=size("supernet", sandwich * steps, 360 * epochs),
        supernet_int8_epochs=size("supernet int8", INT8 * sandwich * steps, 50 * epochs),
        evaluations=size("subnets", 2 * evaluation, 2000, 2 * POPULATION),
        calibration_batches=calibration,
        tuning_epochs=size("tuning", tuned * steps, 200 * epochs),
        tuning_int8_epochs=size("tuning int8", INT8 * tuned * steps, 50 * epochs),
        threads=speed.threads, whole_epoch=whole, score=score, amp=speed.amp)


def plan_last(plan: Plan, seconds: float, found: tuple[float, str], rival: tuple[float, str] | None = None) -> Plan:
    """`plan` with the last training of the network found, and the training of its rival, within `seconds`; `found` and
    `rival` are the seconds of one step of each and its number format, such as (0.2, "bf16").

    The rival has as many epochs as the network found had with its supernet, or those that fit the same time, if these
    are fewer. Each training has one epoch at least.
    """
    step, amp = found
    last, last_int8 = _epochs(plan, seconds, step, bool(rival))
    plan = replace(plan, last_epochs=last, last_int8_epochs=last_int8, last_amp=amp)
    if not rival:
        return plan
    step, amp = rival
    most, most_int8 = _epochs(plan, seconds, step, True)
    return replace(
        plan, rival_amp=amp,
        rival_epochs=min(plan.supernet_epochs + plan.tuning_epochs + last, most),
        rival_int8_epochs=min(plan.supernet_int8_epochs + plan.tuning_int8_epochs + last_int8, most_int8))


def file_seconds(plan: Plan, tests: int, files: int, checking: float, checked: int) -> float:
    """Seconds from the last training to the end, where `checked` finalists took `checking` seconds on the held-out
    images, side by side on the plan's threads.

    The check of each of `files`, on `tests` images in fp32 and INT8, takes twice a finalist's. The check of the network
    found and the measurement take as long as one finalist's each. Example: two threads, 4 finalists in 30 seconds, 3
    files, as many test images as held-out ones: 15 * (2 * 2 + 2) = 90.
    """
    one = checking / math.ceil(checked / plan.threads)
    return one * (2 * math.ceil(files / plan.threads) * max(tests / plan.valid_size, 1) + 2)


def _epochs(plan: Plan, seconds: float, step: float, two: bool) -> tuple[int, int]:
    """Epochs in fp32 and in INT8 of one of the last trainings, of which there may be two, by its seconds of a step."""
    share = seconds if plan.threads > 1 or not two else seconds / 2
    epochs = MARGIN * share / (step * plan.steps)  # as long as so many in fp32
    int8 = max(int(LAST_INT8 * epochs), 1)
    return max(int(epochs - INT8 * int8), 1), int8


def count_scripts(losses: Losses, baselines: bool) -> int:
    """Most scripts that a pipeline starts, each of which first loads its libraries."""
    trained = FINALISTS + baselines
    return sum((4 * losses.students, not losses.given,  # teacher and blocks, in fp32 and int8; tables
                losses.needs_scores, 1, 2,  # tables of a training-free score, search of the space, supernet
                1 + baselines,   # searches of subnets
                4,               # files and latency of random subnets and of the best
                2 * trained, 1 + trained,        # further training, checks without and with it
                2, 1,                            # last training, and its check
                4 * baselines,                   # the rival: files, latency, training
                2 + 2 * baselines, 1))  # files and latency of the compared


def held_out(images: int) -> int:
    """Number of training images held out of training, of `images`."""
    return max(min(math.ceil(VALID_SHARE * images), MOST_VALID), 1)
