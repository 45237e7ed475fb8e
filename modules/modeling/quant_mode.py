"""The quantisation of a network as one value: bits, zero point, start values and placement."""
from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from modules.modeling.blocks import Block
from modules.modeling.ops.lsq_plus import set_quant_mode
from modules.modeling.placement import PLACEMENTS
from modules.utils.errors import UserError, check_choice


@dataclass(frozen=True)
class QuantMode:
    """The quantisation of a network's layers."""

    nbits_w: int = 8
    nbits_a: int = 8
    zero_point: str = "integer"
    narrow_range: bool = True
    start: str = "minmax"
    placement: str = "lsq"  # every convolution owns its input's quantiser; "engine": the input's producer owns it

    def __post_init__(self):
        check_choice(self.placement, PLACEMENTS, "value of placement")
        if self.placement == "engine" and self.zero_point != "integer":
            raise UserError(f"zero_point {self.zero_point!r} under placement 'engine'; allowed: integer")

    def prepare(self, model: nn.Module) -> None:
        """Create the quantisers of tensors in `model` under placement "engine", unless it has them."""
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        if self.placement == "engine" and not any(block.tensors for block in blocks):
            device = next(model.parameters()).device
            for i, block in enumerate(blocks):
                block.own_tensors(with_input=i == 0, device=device)

    def apply(self, model: nn.Module) -> None:
        """Set the mode on `model`."""
        self.prepare(model)
        set_quant_mode(model, self.nbits_w, self.nbits_a, zero_point=self.zero_point, narrow_range=self.narrow_range,
                       start=self.start)


PUBLISHED_QUANT = QuantMode(zero_point="float", narrow_range=False)
