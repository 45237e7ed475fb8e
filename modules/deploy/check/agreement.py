"""Agreement between the answers of a deployed model and of the trained network."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from modules.modeling.network import resize
from modules.runtime.session import Session, check_finite, predict_logits
from modules.utils.errors import UserError

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # images and labels


@dataclass(frozen=True)
class Agreement:
    """Top-1 agreement of two models on `images` images, both accuracies in percent, and the logits' differences.

    `largest_margin` is the largest distance, among the images that differ, between the network's two largest logits:
    a correct model differs only on images whose distance is about as large as the errors of two logits. These errors
    depend on the image: `margin_in_own_errors` is the largest ratio of such a distance to the mean logit error of its
    own image.
    """

    images: int
    differing: int
    top1_network: float
    top1_model: float
    mean_logit_error: float
    max_logit_error: float
    largest_margin: float
    margin_in_own_errors: float = 0.0

    @property
    def percent(self) -> float:
        """Share of the images with the same top-1."""
        return 100 * (1 - self.differing / self.images)

    @property
    def margin_in_errors(self) -> float:
        """`largest_margin` as a multiple of the mean logit error."""
        return self.largest_margin / self.mean_logit_error if self.largest_margin else 0.0

    def __str__(self) -> str:
        return (f"{self.differing} of {self.images} images differ in top-1 (network {self.top1_network:.2f}%, model "
                f"{self.top1_model:.2f}%; logits differ by {self.mean_logit_error:.4f} on average, "
                f"{self.max_logit_error:.4f} at most; largest margin of a differing image {self.largest_margin:.4f}, "
                f"{self.margin_in_errors:.1f} mean errors, {self.margin_in_own_errors:.1f} of the image's own)")


def predict_batches(session: Session, batches: Batches, where: str = "the model"
                    ) -> Iterator[tuple[torch.Tensor, np.ndarray, torch.Tensor]]:
    """Yield (images as the model takes them, logits of the session, labels) for batches of (images, labels).

    `where` names the model in the UserError about logits that are not finite.
    """
    resolution = session.get_inputs()[0].shape[-1]
    for images, labels in batches:
        images = resize(images, resolution)
        if hasattr(session, "rounded"):
            images = session.rounded(images)
        logits = predict_logits(session, images.numpy())
        check_finite(logits, where)
        yield images, logits, labels


def compare(net: Callable[[torch.Tensor], torch.Tensor], session: Session, batches: Batches) -> Agreement:
    """Run `net` (eval mode) and the onnxruntime `session` of its export on batches of (images, labels).

    Raises:
        UserError: no images.
    """
    net_logits, model_logits, truth = [], [], []
    with torch.no_grad():
        for images, logits, labels in predict_batches(session, batches):
            net_logits.append(net(images).numpy())
            check_finite(net_logits[-1], "the network")
            model_logits.append(logits)
            truth.append(labels.numpy())
    if not truth:
        raise UserError("no images to compare the model and the network on")
    a, b, truth = (np.concatenate(parts) for parts in (net_logits, model_logits, truth))
    error, differs = np.abs(a - b), a.argmax(1) != b.argmax(1)
    ordered = np.sort(a[differs], axis=1)  # two logits at least: with one class nothing differs
    margins = ordered[:, -1] - ordered[:, -2:].min(axis=1)
    return Agreement(len(truth), int(differs.sum()), 100 * float((a.argmax(1) == truth).mean()),
                     100 * float((b.argmax(1) == truth).mean()), float(error.mean()), float(error.max()),
                     float(margins.max(initial=0)), float((margins / error.mean(1)[differs]).max(initial=0)))
