"""First half of the demo: teacher, block distillation, block tables, search of the space."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from modules.block_kd.lut.other_stages import load_other_stages
from modules.block_kd.lut.tables import how_made, load_tables
from modules.demo.plan import PLATFORM, SUPERSPACE, TEACHER, VALID_SIZE, Plan
from modules.demo.runner import read_rows, run_script
from modules.search_space.config import SupernetConfig
from modules.utils.files import REPOSITORY

SHIPPED_TABLES = REPOSITORY / "data" / "block_lut"


def find_space(plan: Plan, output: Path) -> tuple[SupernetConfig, list[Path]]:
    """The best space, and the figures drawn on the way."""
    folder = output / "block_kd"
    shutil.rmtree(folder, ignore_errors=True)
    _train_teacher(plan, folder / "teacher")
    _train_students(plan, folder)
    run_script("eval_block_kd.py", "--superspace", SUPERSPACE, "--platform", PLATFORM, *_teacher(folder, "lsq.pth"),
               "--checkpoint_path", folder, "--output_path", folder / "lut", "--num_samples_per_stage",
               plan.table_rows, "--num_workers", 0, *_students(plan))
    tables = SHIPPED_TABLES if plan.students else folder / "lut"
    limit = middle_latency(tables)
    run_script("search_block_kd.py", "--superspace", SUPERSPACE, "--lut_path", tables, "--latency_constraint", limit,
               "--latency_loss_t", 0.08, "--cycles", plan.space_cycles, "--output_dir", folder / "search")
    (found,) = (folder / "search" / SUPERSPACE).iterdir()
    best = read_rows(found / "top50.csv")[0]
    return (SupernetConfig.from_choice(SUPERSPACE, best["choice"]),
            [folder / "lut" / SUPERSPACE / "lut_report.png", found / "search_progress.png",
             found / f"{best['choice']}_distribution.png"])


def _teacher(folder: Path, name: str) -> list:
    return ["--teacher_arch", TEACHER, "--teacher_checkpoint_path", folder / "teacher" / name]


def _students(plan: Plan) -> list:
    return ["--stage_list", *plan.students] if plan.students else []


def _train_teacher(plan: Plan, folder: Path) -> None:
    common = ["-m modules.block_kd.teacher", "--num_workers", 0, "--output_path", folder]
    common += ["--train_batch_size", 32]
    run_script(*common, "--dataset", "digits", "--teacher_arch", TEACHER, "--resolution", 48, 64, "--learning_rate",
               0.005, "--num_epochs", plan.teacher_epochs)
    run_script(*common, "--quant_mode", "--optimizer", "adam", "--learning_rate", 1e-4, "--bn_momentum", 0.1)


def _train_students(plan: Plan, folder: Path) -> None:
    for script, teacher, options in (("train_block_kd.py", "checkpoint.pth", plan.student_options),
                                     ("lsq_block_kd.py", "lsq.pth", ("--debug",) if plan.students else ())):
        run_script(script, "--superspace", SUPERSPACE, *_teacher(folder, teacher), "--dataset", "digits",
                   "--valid_size", VALID_SIZE, "--num_workers", 0, "--lr_step_size", 1, "--num_calib_batches", 5,
                   "--inplace_distill_from_teacher", "--output_path", folder / SUPERSPACE, *_students(plan), *options)


def middle_latency(tables: Path) -> float:
    """A latency limit in ms: what half of the rows of each stage take at the smallest resolution, added up."""
    platform, resolutions = how_made(tables, SUPERSPACE)
    rows = load_tables(tables, SUPERSPACE, resolutions)
    others = load_other_stages(platform, SUPERSPACE, rows.resolutions, lut_folder=tables)
    total = sum(np.median(np.concatenate([table[0].latency for table in stage.values()])) for stage in rows.stages)
    return round(float(total + others[0].min()), 2)
