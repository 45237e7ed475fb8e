"""The teacher of block distillation; `python -m modules.block_kd.teacher` trains one."""
from modules.block_kd.teacher.backbone import CutTeacher, Teacher
from modules.block_kd.teacher.build import build_teacher, check_fits, fit_teacher, get_available_teachers
from modules.block_kd.teacher.files import TeacherRecord, load_teacher
from modules.block_kd.teacher.registry import register_teacher

__all__ = ["CutTeacher", "Teacher", "TeacherRecord", "build_teacher", "check_fits", "fit_teacher",
           "get_available_teachers", "load_teacher", "register_teacher"]
