"""The quantiser of a tensor. Under placement "engine" every tensor that an engine materialises has one."""
from __future__ import annotations

import torch

from modules.modeling.ops import fake_quant
from modules.modeling.ops.lsq_plus import QBase
from modules.modeling.placement import GATE_STEPS


class TensorQuant(QBase):
    """The quantiser of one tensor. `tensor` is the tensor's name in its block, `kind` as of `materialized`.

    Codes of an h-swish's input begin at -3, and 3 is a multiple of the scale: engines then compute x + 3 without
    rounding. A factor between 0 and 1 has fixed codes.
    """

    def __init__(self, tensor: str, kind: str):
        super().__init__(no_weight=True)
        self.tensor, self.kind = tensor, kind
        if kind in GATE_STEPS:
            self.activation_scale.data.fill_(float(GATE_STEPS[kind]))
            self.activation_scale.requires_grad_(False)
            self._mark_started(1)
        if kind in (*GATE_STEPS, "hswish"):
            self.activation_beta.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The fake-quantised tensor, in the shape of `x`. In eval mode it carries the step of its codes."""
        y = self.quantize_input(x)
        if self.nbits_a != 32 and not self.training:
            y.code_step = self.effective()[0].detach().abs()
        return y

    def _start_activation(self, x: torch.Tensor) -> None:
        if self.kind == "hswish":
            x = x.clamp(min=-3).flatten()
            x[0] = -3
        super()._start_activation(x)

    def effective(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scale and the offset that code the tensor, (1,) each."""
        if self.kind != "hswish":
            return super().effective()
        scale = self.activation_scale.abs()
        # The nearest scale that divides 3; the gradient passes straight through.
        steps = (3 / scale.detach()).round().clamp(1, fake_quant.activation_levels(self.nbits_a))
        return scale + (3 / steps - scale).detach(), torch.full_like(scale, -3).detach()

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # An fp32 checkpoint has no quantisers of tensors: they take their start values from the first batch.
        state = {prefix + name: value for name, value in self.state_dict().items()}
        if not any(key in state_dict for key in state):
            state_dict.update(state)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def code_step(x: torch.Tensor) -> torch.Tensor | None:
    """The step of the codes of a tensor from a `TensorQuant` in eval mode; None for any other tensor."""
    return getattr(x, "code_step", None)
