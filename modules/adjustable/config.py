"""Settings of the training of an adjustable network. No torch code."""
from __future__ import annotations

from dataclasses import dataclass

from modules.utils.errors import UserError, check_choice

MINI_EPOCHS = 10  # per epoch, each with a validation and a checkpoint
GAMMA = 0.7
NORMS = ("micronet", "own")
# How far the width's factor and the shift of the minimum (in widths) may go.
RANGES = {"1": ((0.5, 1.3), (-0.2, 0.4)), "2": ((0.5, 1.0), (-0.2, 0.4)), "3": ((0.2, 1.7), (-0.4, 0.7)),
          "4": ((0.1, 2.0), (-0.5, 1.0)), "5": ((0.0, 2.0), (-0.6, 1.2)), "6": ((0.0, 2.2), (-0.8, 1.5))}


@dataclass
class AdjustConfig:
    """The options of adj_quant/train.py; defaults are the published ones."""

    metric: float = 0.18           # score that the bits are driven to
    alpha: float = 7.0             # weight of the cross-entropy; the distillation loss has 1
    beta: float = 85.0             # weight of the score
    gamma: float = GAMMA           # share of the operations' gradient that activations take
    range: str = "5"               # how far ranges may be adjusted
    norms: str = "micronet"        # of the score; own: those of the network in 32 bits
    bits_trainable: bool = False   # else 8 bits everywhere
    finetune: bool = False         # the bits stay as they are
    iter_train: bool = False       # the bits move in every iter_train_freq-th mini-epoch only
    iter_train_freq: int = 2
    warm_up_epoch: float = 0.0     # the bits stay as they are before
    lr: float = 3e-6               # of weights and ranges
    lr_fixed: bool = False         # else it decays and swings
    lr_decay: float = 1e-4
    reinit: int = 800              # steps after which Adam starts afresh, unless lr_fixed
    lr_bits: float = 1e-3
    max_epoch: int = 2
    swa_delay: float | None = None  # epochs before weights are averaged; None: they are not
    swa_freq: float = 0.2           # epochs between the averaged ones
    batch_size: int = 25
    aug: bool = False               # crops and mirrored images
    seed: int = 0

    def __post_init__(self):
        check_choice(self.range, RANGES, "range (--range)")
        check_choice(self.norms, NORMS, "norms (--norms)")
        for name in ("max_epoch", "batch_size", "reinit", "iter_train_freq"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}; allowed: 1 or more")
        if not 0 <= self.gamma <= 1:
            raise UserError(f"--gamma {self.gamma:g}; allowed: 0 to 1")

    def moves_bits(self, mini_epoch: int) -> bool:
        """Whether the bits are trained in this mini-epoch, counted from the start of training."""
        if not self.bits_trainable or self.finetune or mini_epoch < self.warm_up_epoch * MINI_EPOCHS:
            return False
        return not self.iter_train or mini_epoch % MINI_EPOCHS % self.iter_train_freq == 0

    def averages(self, mini_epoch: int) -> bool:
        """Whether the weights at the end of this mini-epoch count in the average."""
        if self.swa_delay is None or mini_epoch % MINI_EPOCHS == 0:
            return False
        every = max(1, int(MINI_EPOCHS * self.swa_freq))
        return mini_epoch / MINI_EPOCHS >= self.swa_delay and mini_epoch % MINI_EPOCHS % every == 0
