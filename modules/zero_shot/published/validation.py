"""Accuracy of published ZenNets on their data sets."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.datasets.build import load_data
from modules.datasets.classes import follow_classes
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.training.evaluation import evaluate
from modules.zero_shot.published.flags import choose_gpu
from modules.zero_shot.published.zennet import get_ZenNet, zennet_model_zoo


class Shrunk(nn.Module):
    """`net` behind a bilinear resize of images to `resolution` pixels."""

    def __init__(self, net: nn.Module, resolution: int):
        super().__init__()
        self.net, self.resolution = net, resolution

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, 3, H, H)."""
        if images.shape[-1] != self.resolution:
            images = F.interpolate(images, self.resolution, mode="bilinear", align_corners=False)
        return self.net(images)


def validate_published(args, dataset: str) -> str:
    """A line with the accuracy of the ZenNet of the flags. As published, classes of images and weights are matched by
    position."""
    device = choose_gpu(args)
    net, facts = get_ZenNet(args.arch, args.weights or True), zennet_model_zoo[args.arch]
    crop, eval_crop = facts.crop_image_size, 1.0 if facts.crop_image_size == facts.resolution else 0.875
    data = load_data(dataset, args.data or None, 0, eval_crop=eval_crop)
    data = follow_classes(data, tuple(map(str, range(net.spec.num_classes))), args.arch, named=False)
    batches = eval_batches(data.test, data.test_indices, eval_transform(crop, data.info), batch_size=args.batch_size,
                           num_workers=args.workers)
    accuracy = evaluate(Shrunk(net, facts.resolution).to(device), batches, args.arch)
    return (f"*** arch={args.arch}, validation top-1 acc={accuracy.top1:.4g}%, top-5 acc={accuracy.top5:.4g}%, number "
            f"of evaluated images={accuracy.images}")
