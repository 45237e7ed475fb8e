"""From the options of eval_block_kd.py to what a `LutBuilder` needs; everything is checked before work begins."""
from __future__ import annotations

import argparse
from functools import partial

import torch

from modules.block_kd.lut.builder import LutConfig, check_held_out
from modules.block_kd.student.config import LOSS_FUNCTIONS
from modules.block_kd.student.files import StudentRecord, read_student, student_path
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.student.space import check_output_sizes, stage_list
from modules.block_kd.teacher import check_fits
from modules.datasets.build import load_data
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError, check_choice

DEFAULT_VALID_SIZE = 50000


def make_job(args: argparse.Namespace, teacher, device: torch.device) -> tuple[LutConfig, dict]:
    """The settings of the tables and the other arguments of `LutBuilder`.

    Raises:
        UserError: an unknown superspace, platform, stage, window or loss; a teacher that does not fit; a student that
            is missing, foreign or was trained at other resolutions; no rows.
    """
    from modules.latency import get_platform

    space = get_superspace(args.superspace)
    platform = get_platform(args.platform)
    check_choice(args.loss_fn, LOSS_FUNCTIONS, "value of --loss_fn")
    for name in ("num_samples_per_stage", "rows_per_pass", "train_batch_size", "eval_batch_size", "num_calib_batches"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}; allowed: 1 or more")
    stages = stage_list(args.superspace, args.stage_list)
    for window in args.width_window_filter:
        check_choice(window, range(max(space.stage(stage).num_windows for stage in stages)),
                     f"width window of {args.superspace} (--width_window_filter)")
    check_fits(teacher, space)
    paths = {(stage, block): student_path(f"{args.checkpoint_path}/{args.superspace}", f"{stage}_{block}",
                                          not args.fp32_mode) for stage, blocks in stages.items() for block in blocks}
    records = {key: _record(path, args, teacher, key) for key, path in paths.items()}
    record = next(iter(records.values()))
    resolutions = tuple(sorted(args.hw_list or record.resolutions))
    for (stage, block), other in records.items():
        if not set(resolutions) <= set(other.resolutions):
            raise UserError(f"--hw_list {' '.join(map(str, resolutions))}: student {stage}_{block} was trained at "
                            f"{', '.join(map(str, other.resolutions))} pixels; allowed: these")
        if _placement(other) != _placement(record):
            raise UserError(f"student {stage}_{block} was trained with --placement {_placement(other)}; allowed beside "
                            f"{record.name}: {_placement(record)}")
    check_output_sizes(space, stages, resolutions, args.loss_fn)
    training = record.training or {}
    dataset, path = args.dataset, args.dataset_path
    if not dataset and not path:
        dataset, path = record.dataset, training.get("dataset_path", "")
    valid_size = args.valid_size or training.get("valid_size", DEFAULT_VALID_SIZE)
    check_held_out(record, valid_size)
    data = load_data(dataset or None, path or None, valid_size)
    config = LutConfig(
        args.superspace, args.platform, resolutions, data.info.name, valid_size, args.augment, args.train_batch_size,
        args.num_calib_batches, args.debug_batches if args.debug else 0, args.eval_batch_size, args.loss_fn,
        args.manual_seed, teacher.arch, not args.fp32_mode, _placement(record))
    students = {key: partial(_student, path, args, teacher, key, device) for key, path in paths.items()}
    return config, {"students": students, "windows": tuple(args.width_window_filter),
                    "num_rows": args.num_samples_per_stage, "data": data, "platform": platform, "device": device,
                    "num_workers": args.num_workers, "rows_per_pass": args.rows_per_pass}


def _record(path, args, teacher, key) -> StudentRecord:
    return read_student(path, args.superspace, *key, teacher, not args.fp32_mode)[1]


def _placement(record: StudentRecord) -> str:
    return record.quant.placement if record.quant else ""


def _student(path, args, teacher, key, device) -> StagePlusProj:
    return read_student(path, args.superspace, *key, teacher, not args.fp32_mode)[0].to(device).eval()
