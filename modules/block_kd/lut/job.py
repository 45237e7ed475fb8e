"""The job of a `LutBuilder`, made from the options of eval_block_kd.py. Everything is checked before work begins."""
from __future__ import annotations

from functools import partial

import torch

from modules.block_kd.lut.builder import LutConfig, LutJob
from modules.block_kd.lut.options import TableOptions
from modules.block_kd.student.files import StudentRecord, check_held_out, read_student, student_path
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.student.space import check_output_sizes
from modules.block_kd.teacher import fit_teacher
from modules.block_kd.teacher.backbone import Teacher
from modules.datasets.announce import announce
from modules.datasets.build import data_of, load_data
from modules.search_space.superspace import get_superspace
from modules.utils.checkpoint import weights_digest
from modules.utils.errors import UserError

DEFAULT_VALID_SIZE = 50000


def make_job(o: TableOptions, teacher: Teacher, device: torch.device) -> LutJob:
    """The job of a `LutBuilder`.

    Raises:
        UserError: an unknown superspace, platform, stage, window or loss; a teacher that does not fit; a student that
            is missing, foreign or was trained at other resolutions; no rows.
    """
    from modules.latency import get_platform

    space = get_superspace(o.superspace)
    platform = get_platform(o.platform)
    stages = o.stages
    fit_teacher(teacher, space)
    paths = {(stage, block): student_path(f"{o.checkpoint_path}/{o.superspace}", f"{stage}_{block}",
                                          not o.fp32_mode) for stage, blocks in stages.items() for block in blocks}
    records, trained, weights = {}, {}, {"teacher": weights_digest(teacher.state_dict())}
    for key, path in paths.items():
        student, records[key], checkpoint = read_student(path, o.superspace, *key, teacher, not o.fp32_mode)
        trained[key] = checkpoint.get("num_images")
        if records[key].teacher_digest not in ("", weights["teacher"]):
            raise UserError(f"student {records[key].name} was distilled from other weights of {teacher.arch} "
                            "(--teacher_checkpoint_path)")
        weights[records[key].name] = weights_digest(student.state_dict())
    record = next(iter(records.values()))
    resolutions = tuple(sorted(o.hw_list or record.resolutions))
    for (stage, block), other in records.items():
        if not set(resolutions) <= set(other.resolutions):
            raise UserError(f"--hw_list {' '.join(map(str, resolutions))}: student {stage}_{block} was trained at "
                            f"{', '.join(map(str, other.resolutions))} pixels; allowed: these")
        if _placement(other) != _placement(record):
            raise UserError(f"student {stage}_{block} was trained with --placement {_placement(other)}; allowed beside "
                            f"{record.name}: {_placement(record)}")
    check_output_sizes(space, stages, resolutions, o.loss_fn)
    training = record.training or {}
    dataset, path = data_of(o.dataset, o.dataset_path, record)
    valid_size = o.valid_size or training.get("valid_size", DEFAULT_VALID_SIZE)
    data = load_data(dataset or None, path or None, valid_size, labelled=False).normalised(*teacher.normalization)
    for key, other in records.items():
        check_held_out(other, trained[key], data.info.name, len(data.train), valid_size)
    announce(data, [resolution * teacher.enlarge for resolution in resolutions])
    config = LutConfig(
        superspace=o.superspace, platform=o.platform, resolutions=resolutions, dataset=data.info.name,
        valid_size=valid_size, augment=o.augment, train_batch_size=o.train_batch_size,
        num_calib_batches=o.num_calib_batches, eval_batches=o.debug_batches if o.debug else 0,
        eval_batch_size=o.eval_batch_size, loss_fn=o.loss_fn, seed=o.manual_seed, teacher=teacher.arch,
        int8=not o.fp32_mode, placement=_placement(record), weights=weights)
    students = {key: partial(_student, path, o, teacher, key, device) for key, path in paths.items()}
    return LutJob(config=config, students=students, windows=tuple(o.width_window_filter),
                  num_rows=o.num_samples_per_stage, data=data, platform=platform, device=device,
                  num_workers=o.num_workers, rows_per_pass=o.rows_per_pass)


def _placement(record: StudentRecord) -> str:
    return record.quant.placement if record.quant else ""


def _student(path, o, teacher, key, device) -> StagePlusProj:
    return read_student(path, o.superspace, *key, teacher, not o.fp32_mode)[0].to(device).eval()
