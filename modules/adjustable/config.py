"""Settings of the training of an adjustable network. No torch code."""
from __future__ import annotations

from dataclasses import dataclass, replace

from modules.utils.errors import UserError
from modules.utils.settings import SEED, TRAIN_BATCH, check_settings, setting

MINI_EPOCHS = 10  # per epoch, each with a validation and a checkpoint
GAMMA = 0.7
NORMS = ("micronet", "own")
METRICS = ("repository", "official", "bitops")  # rules of the score
PAIRINGS = ("all", "tile")
# How far the width's factor and the shift of the minimum (in widths) may go.
RANGES = {"1": ((0.5, 1.3), (-0.2, 0.4)), "2": ((0.5, 1.0), (-0.2, 0.4)), "3": ((0.2, 1.7), (-0.4, 0.7)),
          "4": ((0.1, 2.0), (-0.5, 1.0)), "5": ((0.0, 2.0), (-0.6, 1.2)), "6": ((0.0, 2.2), (-0.8, 1.5))}
GRANULARITIES = ("channel", "layer")
ENGINE_BITS = 4, 8  # of weights in files for engines; all else has the latter


@dataclass(frozen=True)
class QuantizerSettings:
    """How the quantisers of a network are made; the fields are those of `AdjustConfig`. `limits`: of `RANGES`."""

    bits_trainable: bool = False
    weight_bits: int = 8
    act_bits: int = 8
    swish_bits: int = 8
    bias_bits: int = 8
    mix_prec: bool = False
    engine: bool = False
    limits: tuple = RANGES["5"]


def _group(name: str):
    """A function that declares settings of one heading."""
    return lambda default, meaning, **facts: setting(default, meaning, group=name, **facts)


_loss, _quantisers, _training = _group("loss"), _group("quantisers"), _group("training")


@dataclass(frozen=True)
class AdjustConfig:
    """The options of adj_quant/train.py; defaults are the published ones."""

    alpha: float = _loss(7.0, "weight of the cross-entropy; the distillation loss has 1", low=0, aliases=("-a",))
    beta: float = _loss(85.0, "weight of the score", low=0, aliases=("-b",), needs="bits_trainable")
    gamma: float = _loss(GAMMA, "share of the operations' gradient that goes to the bits of activations", low=0, high=1,
                         aliases=("-g",), needs="bits_trainable")
    metric: float = _loss(0.18, "score that the bits are driven to", low=0, needs="bits_trainable")
    dead_band: float = _loss(0.01, "share of the target below it within which the score moves nothing", low=0, high=1,
                             needs="bits_trainable")
    norms: str = _loss("micronet", "norms of the score; own: those of the network in 32 bits", choices=NORMS)

    range: str = _quantisers("5", "how far ranges may be adjusted, from a little to much", choices=tuple(RANGES),
                             aliases=("-r",))
    bits_trainable: bool = _quantisers(False, "the bits are trained; otherwise they stay those of the next options")
    weight_bits: int = _quantisers(8, "bits of weights, from which training starts", low=2, high=8, unit="bits")
    act_bits: int = _quantisers(8, "bits of the inputs of layers, from which training starts", low=2,
                                high=8, unit="bits")
    swish_bits: int = _quantisers(8, "bits of the inputs of smooth activations; 0: trained, -1: not quantised", low=-1,
                                  high=8, unit="bits", needs="granularity=channel")
    bias_bits: int = _quantisers(8, "bits of biases; 0: not quantised", low=0, high=8, unit="bits",
                                 needs="granularity=channel")
    mix_prec: bool = _quantisers(False, "the weights of the first layer, of squeeze-and-excitation and of the "
                                 "classifier stay in float")
    granularity: str = _quantisers("channel", "parts with bits of their own; layer: as engines run it, weights of 4 or "
                                   "8 bits per layer, tensors of 8", choices=GRANULARITIES)
    finetune: bool = _quantisers(False, "the bits stay as they are", needs="bits_trainable")
    iter_train: bool = _quantisers(False, "the bits move in every --iter_train_freq-th mini-epoch only",
                                   needs="bits_trainable")
    iter_train_freq: int = _quantisers(2, "mini-epochs from one in which the bits move to the next", low=1,
                                       needs="iter_train")
    warm_up_epoch: float = _quantisers(0.0, "epochs before the bits move", low=0, unit="epochs", needs="bits_trainable")

    max_epoch: int = _training(2, "epochs", low=1)
    batch_size: int = _training(25, "images per step and process", **TRAIN_BATCH)
    lr: float = _training(3e-6, "learning rate of weights and ranges", low=0)
    lr_fixed: bool = _training(False, "the learning rate stays; otherwise it decays and swings")
    lr_decay: float = _training(1e-4, "decay of the learning rate per step", low=0, needs="lr_fixed=false")
    reinit: int = _training(800, "steps after which Adam starts afresh, unless --lr_fixed", low=1, unit="steps",
                            needs="lr_fixed=false")
    lr_bits: float = _training(1e-3, "learning rate of the bits", low=0, needs="bits_trainable")
    swa_delay: float | None = _training(None, "epochs before weights are averaged; not given: they are not", low=0,
                                        unit="epochs")
    swa_freq: float = _training(0.2, "epochs between the weights that are averaged", low=0, unit="epochs",
                                needs="swa_delay")
    seed: int = replace(SEED, group="training").field()
    aug: bool = _training(False, "images are cropped and mirrored at random")

    def __post_init__(self):
        check_settings(self)
        if self.granularity == "layer":
            if self.mix_prec:
                raise UserError("--mix_prec with --granularity layer; engines need all weights quantised")
            for name, allowed in (("weight_bits", ENGINE_BITS), ("act_bits", ENGINE_BITS[-1:])):
                if getattr(self, name) not in allowed:
                    raise UserError(f"--{name} {getattr(self, name)} with --granularity layer; allowed: "
                                    + " or ".join(map(str, allowed)))

    @property
    def quantizers(self) -> QuantizerSettings:
        """The part that decides which parameters the network has, and the ranges' bounds."""
        return QuantizerSettings(self.bits_trainable, self.weight_bits, self.act_bits, self.swish_bits, self.bias_bits,
                                 self.mix_prec, self.granularity == "layer", RANGES[self.range])

    def sign(self, score: float) -> float:
        """The direction in which the bits are driven: 1 above the target, -1 below the dead band, 0 in between."""
        return 1.0 if score > self.metric else -1.0 if score < self.metric * (1 - self.dead_band) else 0.0

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

    def check_average(self) -> None:
        """UserError if weights are to be averaged, and no mini-epoch up to `max_epoch` counts."""
        if self.swa_delay is None:
            return
        at_once = replace(self, swa_delay=0.0)
        counted = [k / MINI_EPOCHS for k in range(self.max_epoch * MINI_EPOCHS) if at_once.averages(k)]
        if not counted:
            raise UserError(f"--swa_freq {self.swa_freq:g}: no weights would be averaged, for the count starts anew "
                            "with every epoch; allowed: 0 to below 1")
        if self.swa_delay > counted[-1]:
            raise UserError(f"--swa_delay {self.swa_delay:g} with --max_epoch {self.max_epoch}: no weights would be "
                            f"averaged; allowed: 0 to {counted[-1]:g}")
