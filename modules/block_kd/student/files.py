"""The files of a block student: `<root>/<stage>_<block>/checkpoint.pth` (fp32) and `lsq.pth` (int8)."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.teacher.backbone import Teacher
from modules.modeling.quant_mode import PUBLISHED_QUANT, QuantMode
from modules.modeling.restore import Record
from modules.utils.checkpoint import load_checkpoint, load_weights
from modules.utils.errors import UserError


@dataclass(frozen=True)
class StudentRecord(Record):
    """Facts about a student for later steps; the `config` of its checkpoint.

    `training` holds the settings of the run; a published file has none.
    """

    superspace: str
    stage: str
    block: int
    teacher_arch: str
    resolutions: tuple[int, ...]
    dataset: str = ""
    quant: QuantMode | None = None
    training: dict | None = None
    teacher_digest: str = ""  # of the weights of its teacher (`weights_digest`); a file of before has none

    @property
    def name(self) -> str:
        """`<stage>_<block>`."""
        return f"{self.stage}_{self.block}"


def check_held_out(record: StudentRecord, trained: int | None, dataset: str, images: int, valid_size: int) -> None:
    """UserError if the student was trained on some of the `valid_size` images that data set `dataset` holds out, which
    has so many `images` to train on or to hold out. `trained`: the number that the student was trained on; None: an
    older file does not say."""
    held_out = (record.training or {}).get("valid_size")
    if held_out is None or record.dataset != dataset:
        return
    if trained is not None and trained + held_out != images:
        raise UserError(f"student {record.name} was trained when {dataset!r} had {trained + held_out} training images, "
                        f"now it has {images}: others are held out")
    if valid_size > held_out:
        raise UserError(f"--valid_size {valid_size}: student {record.name} held out {held_out} images, the others "
                        f"trained it; allowed: 1 to {held_out}")


def student_path(root: str | Path, name: str, int8: bool) -> Path:
    """The checkpoint of student `name` (`<stage>_<block>`) below `root`."""
    return Path(root) / name / ("lsq.pth" if int8 else "checkpoint.pth")


def build_student(record: StudentRecord, teacher: Teacher) -> StagePlusProj:
    """A student of `teacher` with fresh weights, in the quantiser mode of `record`.

    Raises:
        UserError: a teacher without the stage.
    """
    if record.stage not in teacher.stages:
        raise UserError(f"teacher {teacher.arch!r} has no {record.stage}; it has: {', '.join(teacher.stages)}")
    student = StagePlusProj(record.superspace, record.stage, record.block, *teacher.stages[record.stage])
    if record.quant:
        student.out_proj.quantized_input = record.quant.placement == "engine"
        record.quant.apply(student)
    return student


def read_student(path: str | Path, superspace: str, stage: str, block: int, teacher: Teacher, int8: bool,
                 what: str = "block student") -> tuple[StagePlusProj, StudentRecord, dict]:
    """The student in a file, its record, and the whole checkpoint.

    A file without a record is a published one. It has the superspace's resolutions and, in int8, the published
    quantisers.

    Raises:
        UserError: a missing, damaged or foreign file; another superspace, stage, block or teacher; an fp32 file with
            `int8`.
    """
    checkpoint = load_checkpoint(path, what, maker="lsq_block_kd.py" if int8 else "train_block_kd.py")
    if "config" in checkpoint:
        record = StudentRecord.from_dict(checkpoint["config"], f"{what} {str(path)!r}")
        if (record.superspace, record.stage, record.block) != (superspace, stage, block):
            raise UserError(f"{what} {str(path)!r} is {record.name} of {record.superspace}, not {stage}_{block} of "
                            f"{superspace}")
        if record.teacher_arch != teacher.arch:
            raise UserError(f"{what} {str(path)!r} was distilled from {record.teacher_arch}; the teacher given is "
                            f"{teacher.arch} (--teacher_arch)")
        if int8 and record.quant is None:
            raise UserError(f"{what} {str(path)!r} is an fp32 one; lsq_block_kd.py makes the int8 one")
    else:
        from modules.search_space.superspace import get_superspace

        record = StudentRecord(superspace, stage, block, teacher.arch, get_superspace(superspace).block_kd_resolutions,
                               quant=PUBLISHED_QUANT if int8 else None)
    student = build_student(record, teacher)
    load_weights(student, checkpoint, path, what)
    return student, record, checkpoint
