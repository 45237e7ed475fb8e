"""Rows per second of the block tables: the teacher once per batch and resolution, against once per row.

    OMP_NUM_THREADS=1 python benchmarks/bench_lut.py

An LSQ+ EfficientNet-B5 teaches the int8 students of onnxw, all with random weights (the time does not depend on them),
on random images of 160 to 224 pixels. Both ways use the same students and rows, in one process, in turns.
"""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from modules.block_kd.lut.rows import TableRow
from modules.block_kd.student.evaluation import Candidate, evaluate_candidates
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.teacher.backbone import quantize_layers
from modules.block_kd.teacher.build import build_teacher
from modules.modeling.ops.lsq_plus import set_quant_mode
from modules.search_space.superspace import get_superspace
from modules.utils.cli import make_parser, run
from modules.utils.results import format_table
from modules.utils.settings import BATCH, option


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--superspace", "onnxw", "superspace")
    option(parser, "--teacher_arch", "efficientnet-b5", "teacher")
    option(parser, "--rows", 48, "rows per stage and pass", low=1)
    option(parser, "--rows_alone", 4, "rows timed with a teacher of their own, per stage", low=1)
    option(parser, "--batch", 8, "images per batch", **BATCH)
    option(parser, "--batches", 1, "validation batches, beside one of calibration", low=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space = get_superspace(args.superspace)
    teacher = set_quant_mode(quantize_layers(build_teacher(args.teacher_arch))).eval()
    images = torch.randn(args.batches + 1, args.batch, 3, 224, 224)
    with torch.no_grad():
        teacher(images[0])  # starts the quantisers
    table, totals = [], [0.0, 0.0]
    for stage in space.searched:
        shared, alone = time_stage(args, space, stage, teacher, images)
        totals = [totals[0] + shared, totals[1] + alone]
        table.append({"stage": stage.name, "rows/s": f"{1 / shared:.3f}", "teacher per row": f"{1 / alone:.3f}",
                      "ratio": f"{alone / shared:.2f}"})
        print(table[-1], flush=True)
    table.append({"stage": "all", "rows/s": f"{len(space.searched) / totals[0]:.3f}",
                  "teacher per row": f"{len(space.searched) / totals[1]:.3f}", "ratio": f"{totals[1] / totals[0]:.2f}"})
    print(format_table(table))


def time_stage(args, space, stage, teacher, images):
    """Seconds per row, both ways."""
    students = {b: set_quant_mode(StagePlusProj(space.name, stage.name, b, *teacher.stages[stage.name])).eval()
                for b in range(len(space.candidates))}
    rows = [TableRow.draw(0, space.name, stage.name, i % len(students), i % stage.num_windows, i,
                          space.block_kd_resolutions) for i in range(args.rows)]

    def losses(rows):
        candidates = [Candidate(students[r.block], r.choice, r.resolution) for r in rows]
        batches = [(x, None) for x in images[1:]]
        start = time.perf_counter()
        evaluate_candidates(candidates, teacher, stage.name, images[:1], batches, "nsr", torch.device("cpu"))
        return time.perf_counter() - start

    losses(rows[: len(students)])  # starts their quantisers, and warms up
    every = max(1, args.rows // args.rows_alone)
    alone = sum(losses([row]) for row in rows[::every]) / len(rows[::every])
    return losses(rows) / args.rows, alone


if __name__ == "__main__":
    run(main)
