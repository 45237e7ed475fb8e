"""LSQ+ (Bhalgat et al., 2020): the base class of layers that fake-quantise input and weight with learned scales.

A layer of your own inherits `QBase` and `nn.Module`, and passes its input and weight through `get_quant_x_w`:

    class QScale(QBase, nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels, 1, 1))

        def forward(self, x):
            x, weight = self.get_quant_x_w(x, self.weight)
            return x * weight

It starts in fp32. `set_quant_mode(model)` switches all such layers to int8; each takes its start values from its first
batch. Training, checkpoints, extraction of subnets and several processes work as with `QConv` and `QLinear` in op.py. A
layer without a weight calls `super().__init__(no_weight=True)` and uses `quantize_input`. The writers of ONNX and
TFLite files know the operations of block specs. A layer outside block specs can be trained and evaluated, but not
exported.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from modules.modeling.codes import STARTS, ZERO_POINTS, activation_levels, weight_bounds
from modules.modeling.ops import fake_quant
from modules.modeling.ops.batch_norm import Normed, plain
from modules.modeling.ops.fake_quant import quantize_activation, quantize_weight
from modules.utils import dist
from modules.utils.errors import UserError

__all__ = ["BITS", "PUBLISHED_NAMES", "QBase", "quantize_activation", "quantize_weight", "set_quant_mode",
           "to_published"]

# Our names of the quantiser parameters, and the published ones that `load_state_dict` accepts in their place.
PUBLISHED_NAMES = {"weight_scale": "sw", "activation_scale": "sa", "activation_beta": "beta"}
_SCALES = ("weight_scale", "activation_scale")
BITS = (*range(2, 9), 32)


def quantizer_scales(model: nn.Module) -> Iterator[nn.Parameter]:
    """The scales of all quantisers of `model`, those without bits too."""
    for module in model.modules():
        if isinstance(module, QBase):
            yield from (getattr(module, name) for name in _SCALES if hasattr(module, name))


class QBase(nn.Module):
    """Mixin of a layer with a weight: the quantiser parameters, their start values and the quantiser mode.

    `set_quant_mode` sets the mode; 32 bits switch a quantiser off. The buffer `initialized` marks, for weight and
    activation, that start values have been taken; as a buffer it is saved. Its copy in Python avoids a synchronisation
    of the device in every forward pass.
    """

    nbits_w = nbits_a = 32
    quantized_input = False  # True: the producer of the input quantises it, this layer does not
    zero_point = "integer"   # or "float": the plain activation offset
    narrow_range = True      # False: weight codes from -2^(bits-1)
    start = "minmax"         # or "lsq": scale from the mean magnitude

    def __init__(self, no_weight: bool = False):
        """Create the quantiser parameters with their default values.

        It follows the constructor of the other base class, or replaces it if that is `nn.Module`.
        """
        if "_parameters" not in self.__dict__:
            super().__init__()
        if not no_weight:
            self.weight_scale = nn.Parameter(torch.ones(1))
        self.activation_scale = nn.Parameter(torch.ones(1))
        self.activation_beta = nn.Parameter(torch.zeros(1))
        self.register_buffer("initialized", torch.zeros(2, dtype=torch.bool))
        self._started = [False, False]

    def get_quant_x_w(self, x: torch.Tensor, w: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The fake-quantised input and weight, in their own shapes; at 32 bits they are unchanged."""
        return self.quantize_input(x), self.quantize_weight(w)

    def effective(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scale and the offset that code the input, (1,) each."""
        return self.activation_scale, self.activation_beta

    def quantize_input(self, x: torch.Tensor | Normed) -> torch.Tensor:
        """The fake-quantised input; starts the activation quantiser on its first use."""
        if self.nbits_a == 32:
            return plain(x)
        if not (self.training and self._started[1]):  # a `Normed` goes on to a quantiser that learns
            x = plain(x)
        if not self._started[1]:
            self._start_activation(x.detach())
        if self.training and self.activation_scale.requires_grad:  # a frozen one stays as it is
            self.activation_scale.data.clamp_(min=fake_quant.lower_bound(self.nbits_a))
        scale, beta = self.effective()
        if isinstance(x, Normed):
            return x.quantized(scale, beta, self.nbits_a, self.zero_point)
        return fake_quant.quantize_activation(x, scale, self.nbits_a, beta, self.training, self.zero_point)

    def quantize_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """The fake-quantised weight, or slice of it; starts the weight quantiser on its first use."""
        if self.nbits_w == 32 or weight is None:
            return weight
        if not self._started[0]:
            self._start_weight(weight.detach())
        if self.training and self.weight_scale.requires_grad:
            self.weight_scale.data.clamp_(min=fake_quant.lower_bound(self.nbits_w))
        return fake_quant.quantize_weight(weight, self.weight_scale, self.nbits_w, self.training, self.narrow_range)

    def _start_activation(self, x: torch.Tensor) -> None:
        levels = activation_levels(self.nbits_a)
        # One reduction for both ends: all ranks start from the range of all images.
        ends = dist.all_max(torch.stack((-x.min(), x.max())).float())
        if self.zero_point == "integer":
            ends = ends.clamp(min=0)  # zero must lie in the range: padding needs a code
        if self.start == "lsq":
            mean = dist.all_sum(x.abs().mean().float()) / dist.world_size()
            scale = 2 * mean / levels**0.5
        else:
            scale = ends.sum() / levels
        self.activation_scale.data.copy_(scale.clamp(min=fake_quant.lower_bound(self.nbits_a)))
        self.activation_beta.data.copy_(-ends[0])
        self._mark_started(1)

    def _start_weight(self, w: torch.Tensor) -> None:
        top = weight_bounds(self.nbits_w)[1]
        if self.start == "lsq":
            scale = 2 * w.abs().mean() / top**0.5
        else:
            scale = 2 * w.abs().max() / (2**self.nbits_w - 1)
        self.weight_scale.data.copy_(scale.clamp(min=fake_quant.lower_bound(self.nbits_w)))
        self._mark_started(0)

    def _mark_started(self, which: int) -> None:
        self.initialized[which] = True
        self._started[which] = True

    def copy_quantizer_mode(self, other: QBase) -> None:
        """Take over the mode of `other`, and read the copied `initialized` buffer."""
        for name in ("nbits_w", "nbits_a", "quantized_input", "zero_point", "narrow_range", "start"):
            setattr(self, name, getattr(other, name))
        self._started = self.initialized.tolist()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        for ours, published in PUBLISHED_NAMES.items():
            if prefix + published in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + published)
        names = [prefix + name for name in PUBLISHED_NAMES]
        if prefix + "initialized" not in state_dict and all(name in state_dict for name in names):
            state_dict[prefix + "initialized"] = torch.tensor([_has_started(state_dict, prefix, PUBLISHED_NAMES)] * 2)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)
        error_msgs += [f"{prefix}{name} is 0; the step of a quantiser is above 0" for name in _SCALES
                       if not getattr(self, name, torch.ones(1)).detach().all()]
        self._started = self.initialized.tolist()


def _has_started(state_dict: Mapping, prefix: str, names: Iterable[str]) -> bool:
    """Whether a quantiser of a published file, which has no buffer for it, has other values than the defaults."""
    return [float(state_dict[prefix + name]) for name in names] != [1.0, 1.0, 0.0]


def has_trained_quantizers(state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Whether any quantiser of a published file has learned."""
    first = next(iter(PUBLISHED_NAMES.values()))
    prefixes = [name.removesuffix(first) for name in state_dict if name.rpartition(".")[2] == first]
    return any(_has_started(state_dict, prefix, PUBLISHED_NAMES.values()) for prefix in prefixes
               if all(prefix + name in state_dict and state_dict[prefix + name].numel() == 1
                      for name in PUBLISHED_NAMES.values()))


def set_quant_mode(model: nn.Module, nbits_w: int = 8, nbits_a: int = 8, *, zero_point: str = "integer",
                   narrow_range: bool = True, start: str = "minmax") -> nn.Module:
    """Set the mode of every quantised layer of `model` and return the model.

    Args:
        nbits_w, nbits_a: 2 to 8, or 32 for off. Inputs that their producer quantises are left out.
        zero_point: "integer" (engines need it) or "float" (published checkpoints).
        narrow_range: weight codes -127 ... 127 instead of the published -128 ... 127 (for 8 bits).
        start: "minmax" (range of the first batch) or "lsq" (scale 2 mean|v| / sqrt(largest code), Esser et al.).

    Raises:
        UserError: a number of bits or a mode that does not exist.
    """
    for name, value, allowed in (("nbits_w", nbits_w, BITS), ("nbits_a", nbits_a, BITS),
                                 ("zero_point", zero_point, ZERO_POINTS), ("start", start, STARTS)):
        if value not in allowed:
            raise UserError(f"{name} {value!r} of the quantisers; allowed: {', '.join(map(str, allowed))}")
    for module in model.modules():
        if isinstance(module, QBase):
            module.nbits_w = nbits_w if hasattr(module, "weight_scale") else 32
            module.nbits_a = 32 if module.quantized_input else nbits_a
            module.zero_point, module.narrow_range, module.start = zero_point, narrow_range, start
    return model


def to_published(state_dict: dict) -> dict:
    """The state dict under the published names, without buffers that published files do not have."""
    published = {}
    for key, value in state_dict.items():
        prefix, _, leaf = key.rpartition(".")
        if leaf != "initialized":
            leaf = PUBLISHED_NAMES.get(leaf, leaf)
            published[f"{prefix}.{leaf}" if prefix else leaf] = value
    return published
