"""Settings that trainings of teachers and of block students share. No torch code."""
from __future__ import annotations

from dataclasses import replace

from modules.datasets.transforms import AUGMENTS
from modules.utils.errors import UserError
from modules.utils.settings import BATCH, WORKERS, Setting

DEBUG_BATCHES = 4
IMAGES = Setting("", "folder with train/ and val/, or the ILSVRC tar files")
AUGMENT = Setting("default", "augmentation of the training images", choices=AUGMENTS)
MOST_BATCHES = Setting(0, "most batches of an epoch; 0: all", low=0)
EVAL_BATCH = Setting(100, "images per batch and process in evaluation", **BATCH)
LOADERS = replace(WORKERS, default=16)
DECAY = Setting("cosine", "decay of the learning rate", choices=("cosine", "step"))
DECAY_STEP = Setting(1, "batches between steps of the cosine; epochs between those of step", low=1)
DECAY_FACTOR = Setting(0.9, "factor of the learning rate at every step of step", low=0, needs="lr_scheduler=step")
MOMENTUM = Setting(0.9, "momentum of SGD", low=0, below=1, needs="optimizer!=adam")
CLIP = Setting(0.0, "largest size of an entry of a gradient; 0: any", low=0)
CHECKPOINTS = Setting(15.0, "least time between checkpoints within an epoch, which follow a log line", low=0,
                      unit="minutes")


def check_momentum(optimizer: str, momentum: float) -> None:
    """UserError for Nesterov's momentum of 0."""
    if optimizer == "sgd_nesterov" and momentum == 0:
        raise UserError("--momentum 0 with --optimizer sgd_nesterov; allowed: above 0, or --optimizer sgd")
