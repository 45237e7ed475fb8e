"""What a teacher is, an image classifier cut into named segments, and the registry of teachers.

A network that torchvision or anyone else builds becomes a teacher in a few lines, without a change to its code:

    @register_teacher("resnet50", torchvision="resnet50", forms=("torchvision",))
    def build_resnet50(num_classes, form):
        return CutTeacher(import_torchvision().models.resnet50(num_classes=num_classes), {
            "first_conv": ("conv1", "bn1", "relu"), "stage1": ("maxpool", "layer1"), "stage2": ("layer2",),
            "stage3": ("layer3.0", "layer3.1", "layer3.2"), "stage4": ("layer3.3", "layer3.4", "layer3.5"),
            "stage5": ("layer4.0",), "stage6": ("layer4.1", "layer4.2"),
            "logits": ("avgpool", torch.nn.Flatten(), "fc")})

Tensors around stage i must have the height and width of those around stage i of the superspaces: `check_fits`.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from modules.modeling.ops.op import QConv, QLinear
from modules.search_space.superspace import Superspace
from modules.utils.errors import UserError, check_choice

FORMS = ("tensorflow", "torchvision")
_PROBE_SIZE = 64  # pixels; every stage halves it without remainder


class Teacher(nn.Module):
    """An image classifier that gives the tensors around its segments; subclasses implement `run_segment`.

    `segments` are names in the order of execution, stage1 ... stage6 among them. `form` says whose arithmetic the
    network follows: "tensorflow" pads as TensorFlow's "same" does, "torchvision" symmetrically. `shapes` holds, per
    segment, the shapes (C, H, W) of input and output for an image of 64 pixels.
    """

    arch, form, num_classes = "", "torchvision", 0
    segments: tuple[str, ...] = ()
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    frozen = False
    record = None  # of a loaded teacher: what its file says (teacher_files.TeacherRecord)

    def run_segment(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The output of one segment for its input `x`."""
        raise NotImplementedError

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
            images: (N, 3, H, W), normalised, 32 pixels or more.
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
        """Logits (N, num_classes)."""
        for name in self.segments:
            images = self.run_segment(name, images)
        return images

    def freeze(self) -> Teacher:
        """Keep the network in eval mode and without gradients from now on, whoever calls `train()`."""
        self.frozen = True
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Teacher:
        """As any module's, but without effect on a frozen teacher."""
        return super().train(mode and not self.frozen)


class CutTeacher(Teacher):
    """A teacher from any network `net`, cut by a table.

    Args:
        net: an image classifier.
        segments: per segment what runs one after another: names of submodules of `net`, or functions of a tensor.
    """

    def __init__(self, net: nn.Module, segments: Mapping[str, Sequence[str | Callable]]):
        super().__init__()
        self.net, self.segments, self._parts = net, tuple(segments), dict(segments)
        for module in net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # it would overwrite what students are given

    def run_segment(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The output of one segment for its input `x`."""
        for part in self._parts[name]:
            x = self.net.get_submodule(part)(x) if isinstance(part, str) else part(x)
        return x

    def torchvision_key(self, key: str) -> str:
        """Our name of the tensor that a torchvision state dict calls `key`."""
        return f"net.{key}"


@dataclass(frozen=True)
class _Entry:
    build: Callable[[int, str], Teacher]
    torchvision: str
    forms: tuple[str, ...]


_registry: dict[str, _Entry] = {}


def register_teacher(name: str, *, torchvision: str = "", forms: Sequence[str] = ("torchvision",)):
    """Decorator that makes a builder `(num_classes, form) -> Teacher` known as `name`.

    Args:
        torchvision: torchvision's name of the same network, if its weights fit.
        forms: the forms (see `Teacher`) that the builder knows, the one for fresh networks first.
    """
    def add(build: Callable[[int, str], Teacher]) -> Callable[[int, str], Teacher]:
        _registry[name] = _Entry(build, torchvision, tuple(forms))
        return build
    return add


def get_available_teachers() -> list[str]:
    """Names of all teachers, in the order of registration."""
    from modules.block_kd import efficientnet, regnet  # noqa: F401 - they register theirs

    return list(_registry)


def torchvision_name(arch: str) -> str:
    """torchvision's name of teacher `arch`; UserError if it has none."""
    name = _entry(arch).torchvision
    if not name:
        known = [a for a in _registry if _registry[a].torchvision]
        raise UserError(f"torchvision has no weights of teacher {arch!r}; allowed: {', '.join(known)}")
    return name


def _entry(arch: str) -> _Entry:
    return _registry[check_choice(arch, get_available_teachers(), "teacher (--teacher_arch)")]


def build_teacher(arch: str, num_classes: int = 1000, form: str | None = None) -> Teacher:
    """Teacher `arch` with random weights; `form` None takes the first that it is registered with.

    Raises:
        UserError: an unknown teacher, or a form that it does not have.
    """
    entry = _entry(arch)
    form = check_choice(form or entry.forms[0], entry.forms, f"form of teacher {arch}")
    teacher = entry.build(num_classes, form)
    teacher.arch, teacher.form, teacher.num_classes = arch, form, num_classes
    teacher.shapes = _probe(teacher)
    return teacher


def _probe(teacher: Teacher):
    weight = next(teacher.parameters())
    images = torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE, device=weight.device, dtype=weight.dtype)
    teacher.eval()
    with torch.no_grad():
        found = teacher.features(images, teacher.segments)
    teacher.train()
    return {name: (tuple(x.shape[1:]), tuple(y.shape[1:])) for name, (x, y) in found.items()}


def check_fits(teacher: Teacher, superspace: Superspace) -> None:
    """UserError unless the teacher has every searched stage, with tensors as large as the superspace's."""
    size, searched = _PROBE_SIZE, {s.name for s in superspace.searched}
    for table in superspace.elastic:
        before, size = size, size // table.stride
        if table.name not in searched:
            continue
        if table.name not in teacher.stages:
            raise UserError(f"teacher {teacher.arch!r} has no {table.name}, which {superspace.name} searches; it has: "
                            f"{', '.join(teacher.stages)}")
        sizes = tuple(shape[-1] for shape in teacher.shapes[table.name])
        if sizes != (before, size):
            raise UserError(f"{table.name} of teacher {teacher.arch!r} goes from {sizes[0]} to {sizes[1]} pixels for "
                            f"an image of {_PROBE_SIZE}, that of {superspace.name} from {before} to {size}; register "
                            "the teacher with other cut points")


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
