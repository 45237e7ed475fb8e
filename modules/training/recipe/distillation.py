"""Teacher-student training as in Zen-NAS: a network learns from labels, and from the logits and features of another
network."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from modules.datasets.build import Data
from modules.datasets.classes import check_same_classes
from modules.datasets.transforms import train_transform
from modules.modeling.network import QNetwork, resize
from modules.modeling.restore import ModelRecord, check_trained, find_checkpoint, load_supernet
from modules.modeling.supernet import Supernet
from modules.search_space.reference import read_network
from modules.training.calibration import load_calibration_images
from modules.training.config import TrainConfig
from modules.training.evaluation import extract_calibrated
from modules.training.precision import autocast
from modules.training.recipe.features import block_outputs, last_blocks
from modules.training.recipe.renormalise import Renormalise
from modules.utils.checkpoint import weights_digest
from modules.utils.errors import UserError
from modules.utils.notes import say

_START = 1e-4  # of the projections' weights, which are normal with this deviation over the root of their outputs


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode, and the strides of the features to learn."""

    net: QNetwork
    blocks: dict[str, int]  # name and channels of a block for each stride
    renormalise: Renormalise | None = None  # from the student's images
    digest: str = ""  # of the weights in its file

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, amp: str = "none") -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features (N, C, H / stride, W / stride), one for each stride, and logits (N, K) of images (N, 3, H, W)
        that are normalised for the student, in float32. Example: (64, 96, 14, 14) for stride 16 and (64, 1000), of
        (64, 3, 224, 224). `amp`: number format of the network, "none" or "bf16"."""
        with block_outputs(self.net, list(self.blocks)) as seen, autocast(amp, images.device.type):
            logits = self.net(self.renormalise(images) if self.renormalise else images)
        return [seen[name] for name in self.blocks], logits.float()


class Distiller:
    """The loss of a student from a teacher.

    Args:
        teacher: the network to learn from in each step; None: its answers of before are learned.
        student: name and channels of a block of the student for each of the teacher's.
        feature_weight, logit_weight: factors of the two parts.
        temperature: divisor of both networks' logits.
        clip: largest size of a teacher's feature; 0: any.
    """

    def __init__(self, teacher: Teacher | None, student: dict[str, int], *, feature_weight: float, logit_weight: float,
                 temperature: float = 1.0, clip: float = 0.0):
        self.teacher, self.names = teacher, list(student)
        self.feature_weight, self.logit_weight, self.clip = feature_weight, logit_weight, clip
        self.temperature = temperature
        self.projections = nn.ModuleList(
            nn.Conv2d(mine, other, 1)
            for mine, other in zip(student.values(), teacher.blocks.values() if teacher else (), strict=True))
        for projection in self.projections:
            nn.init.normal_(projection.weight, 0, _START / projection.out_channels**0.5)
            nn.init.zeros_(projection.bias)

    @property
    def resolution(self) -> int:
        """Size of the teacher's images in pixels; 0 if it does not see them."""
        return self.teacher.net.resolution if self.teacher else 0

    def watch(self, net: nn.Module):
        """A context; a run of the student `net` in it gives the features."""
        return block_outputs(net, self.names)

    def loss(self, images: torch.Tensor, features: dict[str, torch.Tensor], logits: torch.Tensor,
             amp: str = "none", answers: torch.Tensor | None = None) -> torch.Tensor:
        """feature_weight sum over the strides of smooth L1(projection of the student's feature, teacher's feature), and
        logit_weight T^2 times the cross-entropy of the student's logits against the teacher's probabilities, both
        logits divided by the temperature T (Hinton et al., 2015).

        A teacher's feature of another size is resized bilinearly to the student's.

        Args:
            images: the student's images (N, 3, H, W), at any size.
            features: the student's, from `watch`.
            logits: (N, K), float32.
            amp: number format of the teacher's pass, "none" or "bf16".
            answers: the teacher's logits (N, K), if it has given them before; then there is no loss of features.
        """
        theirs, target = self.teacher(images, amp) if answers is None else ([], answers)
        temperature = self.temperature
        loss = self.logit_weight * temperature**2 * F.cross_entropy(logits / temperature,
                                                                    (target / temperature).softmax(1))
        for name, projection, other in zip(self.names, self.projections, theirs, strict=True):
            loss = loss + self.feature_weight * F.smooth_l1_loss(
                projection(features[name]), self._fitted(other, features[name].shape[2:]))
        return loss

    def _fitted(self, feature: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        if self.clip:
            feature = feature.clamp(-self.clip, self.clip)
        if feature.shape[2:] == size:
            return feature
        return F.interpolate(feature, tuple(size), mode="bilinear", align_corners=False)


def make_distiller(config: TrainConfig, record: ModelRecord, data: Data, student: Supernet) -> Distiller | None:
    """The distiller of `config`, on the device of `student`; None if `config` has no teacher.

    Raises:
        UserError: an unknown teacher, no checkpoint of it, other classes than the data set's, a stride that one of the
            networks does not have.
    """
    if not config.teacher:
        return None
    weights = {"feature_weight": config.teacher_feature_weight, "logit_weight": config.teacher_logit_weight,
               "temperature": config.teacher_temperature, "clip": config.ts_clip}
    if config.teacher_once:
        return Distiller(None, {}, **weights)
    (name,) = config.teacher
    device = next(student.parameters()).device
    net, known, digest = load_teacher(name, config, record, data, device)
    distiller = Distiller(
        Teacher(net, last_blocks(net.spec, config.teacher_strides, name), Renormalise(record, known), digest),
        last_blocks(student.active_spec, config.teacher_strides, record.supernet), **weights)
    distiller.projections.to(device)
    return distiller


def load_teacher(name: str, config: TrainConfig, record: ModelRecord, data: Data,
                 device: torch.device) -> tuple[QNetwork, ModelRecord, str]:
    """The network `name` of `config.teacher` in eval mode on `device`, its record, and the digest of the weights in its
    file. Its batch norm is calibrated on training images, as in every evaluation.

    Raises:
        UserError: an unknown name, no checkpoint, other classes than those of `record`, another network of the space
            that was trained alone.
    """
    network = read_network(name)
    path = find_checkpoint(config.teacher_checkpoint or config.models_save_dir, network.space, False,
                           supernet=network.supernet)
    model, known = load_supernet(path, network.space, False)
    if known.quant:
        say(f"teacher {str(path)!r} is of an INT8 training; it teaches in float")
    if known.named:
        check_same_classes(known.classes, record.classes, str(path))
    elif len(known.classes) != len(record.classes):
        raise UserError(f"teacher {str(path)!r} tells {len(known.classes)} classes apart, the data set has "
                        f"{len(record.classes)}; allowed: as many, in the same order")
    choice = network.subnet
    if network.fixed and network.own_resolution:
        choice = model.subnets.extreme(max)  # at the resolution of its training
    check_trained(known, choice, path)
    images = None
    if not known.keeps_statistics:
        least = known.training.get("crop_scale_min", 0.0) if known.dataset == data.info.name else 0.0
        own = data.normalised(known.mean, known.std).cropped(least)
        size = choice.resolution if known.any_resolution else known.crop_size
        images = [resize(images.to(device), choice.resolution) for images in load_calibration_images(
            own, train_transform(known.augment, size, own.info),
            config.post_bn_calibration_batch_num, batch_size=config.batch_size_per_gpu, seed=config.seed,
            num_workers=config.data_loader_workers_per_gpu)]
    digest = weights_digest(model.state_dict())
    return extract_calibrated(model.to(device), choice, images).requires_grad_(False), known, digest
