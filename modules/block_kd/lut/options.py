"""The options of eval_block_kd.py. No torch code."""
from __future__ import annotations

from dataclasses import MISSING, dataclass, replace

from modules.block_kd.student.config import LOSS_FUNCTIONS
from modules.block_kd.student.space import stage_list
from modules.datasets.transforms import AUGMENTS
from modules.search_space.superspace import get_searched_superspace
from modules.utils.errors import check_choice
from modules.utils.settings import BATCH, PIXELS, SEED, TRAIN_BATCH, WORKERS, check_settings, setting

ROWS_PER_PASS = 500    # at most; a killed run loses at most these


@dataclass(frozen=True)
class TableOptions:
    """The tables to build, their students and their images."""

    superspace: str = setting(MISSING, "superspace, such as onnxw, mobilew, onnxw_tiny")
    platform: str = setting(MISSING, "device of the latency column, such as onnxruntime_int8")
    checkpoint_path: str = setting("checkpoints/block_kd", "folder of the students, "
                                   "<checkpoint_path>/<superspace>/<stage>_<block>/lsq.pth")
    dataset: str = setting("", "data set: digits, folder, CIFAR10 ...", shown="that of the students")
    dataset_path: str = setting("", "folder with train/ and val/, or the ILSVRC tar files")
    valid_size: int = setting(0, "held-out training images to measure on", low=0, unit="images",
                              shown="those the students held out, or 50000")
    augment: str = setting("default", "augmentation of the calibration images", choices=AUGMENTS)
    train_batch_size: int = setting(64, "images per calibration batch", **TRAIN_BATCH)
    num_calib_batches: int = setting(4, "training batches that calibrate batch norm", low=1)
    eval_batch_size: int = setting(50, "images per batch and process in evaluation", **BATCH)
    num_workers: int = replace(WORKERS, default=8).field()
    stage_list: tuple[str, ...] = setting((), "students, such as stage3_0", metavar="NAME", shown="all")
    width_window_filter: tuple[int, ...] = setting((), "width windows to build", low=0, high=9, metavar="WINDOW",
                                                   shown="all")
    num_samples_per_stage: int = setting(1000, "rows per file", low=1)
    rows_per_pass: int = setting(ROWS_PER_PASS, "rows that share one pass of the teacher", low=1)
    hw_list: tuple[int, ...] = setting((), "resolutions", many="+", **PIXELS,
                                       shown="those the students were trained at")
    loss_fn: str = setting("nsr", "loss; nsr: noise-to-signal ratio", choices=LOSS_FUNCTIONS)
    manual_seed: int = SEED.field()
    debug: bool = setting(False, "measure on --debug_batches batches only; the published tables were made so")
    debug_batches: int = setting(11, "batches of --debug", low=1, needs="debug")
    fp32_mode: bool = setting(False, "fp32 students (checkpoint.pth) and teacher")

    def __post_init__(self):
        check_settings(self)
        get_searched_superspace(self.superspace)

    @property
    def stages(self) -> dict[str, list[int]]:
        """The block numbers of each stage with a table, such as {"stage3": [0, 2]}.

        UserError for an unknown stage, block or width window.
        """
        space, stages = get_searched_superspace(self.superspace), stage_list(self.superspace, list(self.stage_list))
        for window in self.width_window_filter:
            check_choice(window, range(max(space.stage(stage).num_windows for stage in stages)),
                         f"width window of {self.superspace} (--width_window_filter)")
        return stages
