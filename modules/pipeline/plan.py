"""Sizes of the steps of the pipeline: the budget divided by the cost of each step on this machine."""
from __future__ import annotations

import math
from dataclasses import dataclass

from modules.block_kd.space_search.spaces import Spaces
from modules.pipeline.speed import BATCH, Speed

# Shares of the budget. The rest is for the rival, for reading images, for the search of the space, and for estimates
# that are too low.
SHARES = {"teacher": 0.05, "blocks": 0.08, "blocks int8": 0.06, "tables": 0.06, "supernet": 0.20, "supernet int8": 0.06,
          "subnets": 0.05, "tuning": 0.18, "tuning int8": 0.07}
FINALISTS = 3         # subnets that are trained further, from which the best is taken
TRAINED = FINALISTS + 1  # and random search's best, to compare with
FOR_TABLES = ("teacher", "blocks", "blocks int8", "tables")  # with given tables their time goes to the others
INT8 = 1.4            # time of a step with learned scales, in fp32 steps
SUBNETS_PER_STEP = 4  # of the sandwich rule
FORWARD = 1 / 3       # share of the forward pass in a step
POPULATION = 6        # subnets of a round of the search
VALID_SHARE, MOST_VALID = 0.15, 5000


@dataclass(frozen=True)
class Plan:
    """Sizes of the steps.

    Args:
        valid_size: training images held out of all training, for the search.
        steps: batches of an epoch.
        resolution: pixels of the block tables, the largest of the supernet.
        evaluations: subnets that the search evaluates.
        calibration_batches: training batches that calibrate batch norm.
        threads: of the CPU.
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

    def __str__(self) -> str:
        blocks = (f"teacher {self.teacher_epochs} epochs; blocks {self.block_batches} and {self.block_int8_batches} "
                  f"batches of {BATCH} (fp32, int8); tables of {self.table_rows} rows; ")
        return (f"{self.threads} thread(s); {self.valid_size} training images held out; "
                f"{'/'.join(map(str, self.resolutions))} pixels; {blocks if self.table_rows else ''}supernet "
                f"{self.supernet_epochs} and {self.supernet_int8_epochs} epochs; "
                f"{self.evaluations} subnets evaluated; the best of them trained for {self.tuning_epochs} and "
                f"{self.tuning_int8_epochs} epochs more")


def make_plan(budget: float, images: int, spaces: Spaces, resolutions: tuple[int, ...], speed: Speed,
              tables_given: bool = False, baselines: bool = True, zero_shot: bool = False) -> Plan:
    """The plan for `budget` seconds and `images` training images, from step times measured at the largest of
    `resolutions`. The start of the scripts is taken off the budget; at least a third of it stays. Each size fills its
    step's share of the rest, and is at least one; with tables given, those of the steps that make tables are 0. With
    `zero_shot` each row of a table also costs a training-free score."""
    budget = max(budget - count_scripts(not tables_given, baselines, zero_shot) * speed.start, budget / 3)
    if tables_given:
        budget /= 1 - sum(SHARES[name] for name in FOR_TABLES)
    valid = held_out(images)
    steps = max((images - valid) // BATCH, 1)
    kinds, stages = len(spaces.blocks), spaces.space.searched
    tables = sum(stage.num_windows for stage in stages) * kinds
    pass_seconds = speed.sandwich * FORWARD / SUBNETS_PER_STEP / BATCH  # of one image through one network
    calibration = min(max(steps // 4, 4), 32)
    seen = valid + calibration * BATCH

    def size(name: str, seconds: float, most: int, least: int = 1) -> int:
        if tables_given and name in FOR_TABLES:
            return 0
        return int(min(max(SHARES[name] * budget / seconds, least), most))

    students = kinds * speed.sandwich + speed.teacher * FORWARD
    smaller = sum(r**2 for r in resolutions) / max(resolutions)**2 / len(resolutions)
    sandwich = speed.sandwich * smaller
    tuned = speed.single * smaller / SUBNETS_PER_STEP * steps * TRAINED / min(speed.threads, TRAINED)
    return Plan(
        valid_size=valid, steps=steps, resolution=max(resolutions), resolutions=resolutions,
        teacher_epochs=size("teacher", (speed.teacher or 1) * steps * (1 + INT8 / 3), 200),
        block_batches=size("blocks", students, 100 * steps, 4),
        block_int8_batches=size("blocks int8", INT8 * students, 100 * steps, 4),
        table_rows=size("tables", tables * (seen * INT8 * pass_seconds / len(stages) + 0.03 * (1 + zero_shot)), 1000,
                        4),
        supernet_epochs=size("supernet", sandwich * steps, 360),
        supernet_int8_epochs=size("supernet int8", INT8 * sandwich * steps, 50),
        evaluations=size("subnets", 2 * seen * INT8 * pass_seconds, 2000, 2 * POPULATION),
        calibration_batches=calibration,
        tuning_epochs=size("tuning", tuned, 200), tuning_int8_epochs=size("tuning int8", INT8 * tuned, 50),
        threads=speed.threads)


def count_scripts(own_tables: bool, baselines: bool, zero_shot: bool = False) -> int:
    """Most scripts that a pipeline starts, each of which first loads its libraries."""
    trained = FINALISTS + baselines
    return sum((5 * own_tables,  # teacher and blocks, in fp32 and int8, and tables
                zero_shot, 1, 2,  # tables of a training-free score, search of the space, supernet
                1 + baselines,   # searches of subnets
                2,               # files and latency of the best
                2 * trained, 1 + trained,        # further training, checks without and with it
                4 * baselines,                   # the rival: files, latency, training
                2 + 2 * baselines, 1))  # files and latency of the compared


def held_out(images: int) -> int:
    """Number of training images held out of training, of `images`."""
    return max(min(math.ceil(VALID_SHARE * images), MOST_VALID), 1)
