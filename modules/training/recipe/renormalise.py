"""Images that were normalised for one network, for another one."""
from __future__ import annotations

import torch

from modules.modeling.restore import Record


class Renormalise:
    """Maps images (N, 3, H, W), normalised by `given.mean` and `given.std`, to the normalisation of `wanted`.

    Example: bytes of 127 are 0 for EfficientNet-Lite, whose mean is 127 / 255 and whose deviation is 128 / 255.
    """

    def __init__(self, given: Record, wanted: Record):
        self.same = (tuple(given.mean), tuple(given.std)) == (tuple(wanted.mean), tuple(wanted.std))
        mean, std, own_mean, own_std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
                                        for values in (given.mean, given.std, wanted.mean, wanted.std))
        self.scale, self.shift = (std / own_std).float(), ((mean - own_mean) / own_std).float()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.same:
            return images
        if self.scale.device != images.device:
            self.scale, self.shift = self.scale.to(images.device), self.shift.to(images.device)
        return images * self.scale + self.shift
