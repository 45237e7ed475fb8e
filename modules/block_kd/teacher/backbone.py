"""Teachers: image classifiers cut into named segments.

A network from torchvision or elsewhere becomes a teacher in a few lines, without a change to its code:

    @register_teacher("resnet50", torchvision="resnet50", forms=("torchvision",))
    def build_resnet50(num_classes, form):
        return CutTeacher(import_torchvision().models.resnet50(num_classes=num_classes), {
            "first_conv": ("conv1", "bn1", "relu"), "stage1": ("maxpool", "layer1"), "stage2": ("layer2",),
            "stage3": ("layer3.0", "layer3.1", "layer3.2"), "stage4": ("layer3.3", "layer3.4", "layer3.5"),
            "stage5": ("layer4.0",), "stage6": ("layer4.1", "layer4.2"),
            "logits": ("avgpool", torch.nn.Flatten(), "fc")})

The input and output of stage i must be as high and wide as those of stage i of the superspaces; see `check_fits`.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from modules.modeling.ops.op import QConv, QLinear
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.utils.errors import check_choice

FORMS = ("tensorflow", "torchvision")


class Teacher(nn.Module):
    """An image classifier that gives the tensors around its segments; subclasses implement `run_segment`.

    `segments` are names in the order of execution, stage1 ... stage6 among them. `form` is the kind of arithmetic:
    "tensorflow" pads as TensorFlow's "same" does, "torchvision" pads symmetrically. `shapes` holds, per
    segment, the shapes (C, H, W) of input and output for an image of 64 pixels times `enlarge`, the number of times
    that its images are as wide as the students'.
    """

    arch, form, num_classes = "", "torchvision", 0
    segments: tuple[str, ...] = ()
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    frozen = False
    enlarge = 1
    record = None  # of a loaded teacher: the record in its file (`files.TeacherRecord`)

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation that its images are normalised by, per channel, of values in 0..1."""
        return (self.record.mean, self.record.std) if self.record else (IMAGENET_MEAN, IMAGENET_STD)

    def run_segment(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The output of one segment for its input `x`."""
        raise NotImplementedError

    def cut_for_small_images(self) -> bool:
        """Cut it as `build.fit_teacher` says; False if it has no such cut."""
        return False

    def torchvision_key(self, key: str) -> str:
        """Our name of the tensor that a torchvision state dict calls `key`."""
        raise NotImplementedError

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """Channels of input and output of each stage."""
        return {name: (x[0], y[0]) for name, (x, y) in self.shapes.items() if name.startswith("stage")}

    def features(self, images: torch.Tensor, stages: Iterable[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Input and output of each of `stages`, from one forward pass that ends with the last of them.

        Args:
            images: (N, 3, H, W), such as (64, 3, 224, 224), normalised, 32 pixels or more.
            stages: names of segments; UserError for an unknown one.
        """
        wanted = {check_choice(stage, self.segments, f"stage of teacher {self.arch}") for stage in stages}
        found, x = {}, images
        for name in self.segments:
            if len(found) == len(wanted):
                break
            y = self.run_segment(name, x)
            if name in wanted:
                found[name] = (x, y)
            x = y
        return found

    def forward_to_stage(self, images: torch.Tensor, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(output, input) of one segment: the published call."""
        x, y = self.features(images, [stage])[stage]
        return y, x

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of images (N, 3, H, W), such as (64, 1000) of (64, 3, 224, 224)."""
        for name in self.segments:
            images = self.run_segment(name, images)
        return images

    def freeze(self) -> Teacher:
        """Keep the network in eval mode and without gradients from now on, even if `train()` is called."""
        self.frozen = True
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Teacher:
        """As in any module, but without effect on a frozen teacher."""
        return super().train(mode and not self.frozen)


class CutTeacher(Teacher):
    """A teacher from any network `net`, cut by a table.

    Args:
        net: an image classifier.
        segments: the parts of each segment in the order they run: names of submodules of `net`, or functions of a
            tensor.
    """

    def __init__(self, net: nn.Module, segments: Mapping[str, Sequence[str | Callable]]):
        super().__init__()
        self.net, self.segments, self._parts = net, tuple(segments), dict(segments)
        for module in net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # in place, it would overwrite the students' input

    def run_segment(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The output of one segment for its input `x`."""
        for part in self._parts[name]:
            x = self.net.get_submodule(part)(x) if isinstance(part, str) else part(x)
        return x

    def torchvision_key(self, key: str) -> str:
        """Our name of the tensor that a torchvision state dict calls `key`."""
        return f"net.{key}"


def quantize_layers(teacher: nn.Module) -> nn.Module:
    """Replace every convolution and linear layer by its LSQ+ form with the same weights, quantisers off."""
    for module in list(teacher.modules()):
        for name, layer in module.named_children():
            if type(layer) in (nn.Conv2d, nn.Linear):
                setattr(module, name, _quantized(layer))
    return teacher


def _quantized(layer: nn.Conv2d | nn.Linear) -> QConv | QLinear:
    with layer.weight.device:
        if isinstance(layer, nn.Linear):
            quantized = QLinear(layer.in_features, layer.out_features, layer.bias is not None)
        else:
            quantized = QConv(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                              layer.dilation, layer.groups, layer.bias is not None, layer.padding_mode)
    quantized.weight, quantized.bias = layer.weight, layer.bias
    return quantized
