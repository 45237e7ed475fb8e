"""Accuracy of subnets, with their uncertainty."""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from modules.training.calibration import calibrate_bn
from modules.utils import dist
from modules.utils.errors import UserError

if TYPE_CHECKING:
    from modules.modeling.network import QNetwork
    from modules.modeling.supernet import Supernet
    from modules.search_space.config import SubnetChoiceConfig


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy in percent, mean cross-entropy, number of images."""

    top1: float
    top5: float
    loss: float
    images: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of the top-1 accuracy in percent (Wilson's); without images the value itself."""
        return (self.top1, self.top1) if not self.images else wilson_interval(self.top1 / 100, self.images)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.top1:.2f}% [{low:.2f}, {high:.2f}]"


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval (1927), in percent, of `share` (0 ... 1) observed in `count` trials, at least
    one; it holds `share`. For 0.845 of 5000: (83.5, 85.5)."""
    z = 1.959964  # of a normal distribution
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return 100 * min(max(centre - half, 0.0), share), 100 * max(min(centre + half, 1.0), share)


def evaluate(net: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
             what: str = "the network") -> Accuracy:
    """Accuracy of `net`, in eval mode, over batches of (images, labels), summed over processes.

    `what` names the network in a message.

    Raises:
        UserError: no images, or outputs that are not finite (they would all count as class 0).
    """
    device = next(net.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    net.eval()
    with torch.no_grad():
        for images, labels in batches:
            logits, labels = net(images.to(device)), labels.to(device)
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            sums += torch.stack((top[:, 0].sum(), top.any(1).sum(), F.cross_entropy(logits, labels, reduction="sum"),
                                 torch.tensor(len(labels), device=device))).double()
    right, right5, loss, images = dist.all_sum(sums).tolist()
    if not images:
        raise UserError("the evaluation set is empty")
    if not math.isfinite(loss):
        raise UserError(f"{what} is not finite: its loss over {images:.0f} images is {loss}, so it has no accuracy")
    return Accuracy(100 * right / images, 100 * right5 / images, loss / images, int(images))


def extract_calibrated(supernet: Supernet, choice: SubnetChoiceConfig, calibration: Iterable[torch.Tensor] | None
                       ) -> QNetwork:
    """A static copy of subnet `choice`, its batch norm calibrated on `calibration` (image batches; None: not at all),
    in eval mode."""
    active = supernet.get_active_subnet_config()
    supernet.set_active_subnet(choice)
    net = supernet.get_active_subnet()
    supernet.set_active_subnet(active)
    return (net if calibration is None else calibrate_bn(net, calibration)).eval()
