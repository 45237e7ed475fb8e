"""How large the demo is: its full form, and a short one for continuous integration."""
from __future__ import annotations

from dataclasses import dataclass

SUPERSPACE, PLATFORM, TEACHER = "onnxw_tiny", "onnxruntime_int8", "efficientnet-tiny"
CONFIG = "supernet_training_configs/digits.yaml"
VALID_SIZE = 240           # training images that no student or supernet trains on
CALIBRATION_BATCHES = 10   # of 64 images: half of the training set


@dataclass(frozen=True)
class Plan:
    """Numbers that decide how long the demo takes.

    `students` names the block students that are trained (empty: all); where not all are, the space is searched with the
    block tables that come with the project.
    """

    teacher_epochs: int
    students: tuple[str, ...]
    student_options: tuple
    table_rows: int
    space_cycles: int
    resolutions: tuple[int, ...]
    supernet_options: tuple
    population: int
    rounds: int
    search_calibration: int
    sampled_latencies: int


FULL = Plan(teacher_epochs=8, students=(), student_options=("--num_epochs", 1), table_rows=20, space_cycles=3000,
            resolutions=(48, 64), supernet_options=("--epochs", 14, "--quant_epochs", 3), population=12, rounds=2,
            search_calibration=8, sampled_latencies=200)
SHORT = Plan(teacher_epochs=2, students=("stage2_1", "stage2_4"), student_options=("--debug",), table_rows=4,
             space_cycles=1000, resolutions=(32,), supernet_options=("--epochs", 5, "--quant_epochs", 1), population=4,
             rounds=1, search_calibration=4, sampled_latencies=20)
