"""EfficientNet (Tan and Le, 2019) as a teacher, cut into its seven groups of blocks.

Names of the tensors are the published ones (`_conv_stem`, `_blocks.<i>._expand_conv` ...). Two forms have the same
tensors. "tensorflow" is that of the published teachers: it pads as TensorFlow's "same" does and has a batch-norm
epsilon of 1e-3. "torchvision" pads symmetrically, as torchvision's weights expect.
"""
from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from modules.block_kd.teacher.backbone import FORMS, Teacher
from modules.block_kd.teacher.registry import register_teacher
from modules.modeling.spec import make_divisible, output_size
from modules.search_space.networks.efficientnets import (
    GROUPS,
    HEAD,
    LITE,
    LITE_MEAN,
    LITE_STD,
    STEM,
    Group,
    LiteScale,
    lite_repeats,
)

# Factors of width and depth. "tiny" and "small" are no published networks: teachers that train in a minute. The third
# group of "small" has two blocks, so that it can be cut for superspaces for small images.
OWN_SCALES = ("tiny", "small")
SCALES = {"tiny": (0.35, 0.35), "small": (0.35, 0.51), "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2),
          "b3": (1.2, 1.4), "b4": (1.4, 1.8), "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1)}
SE_RATIO = 0.25
TENSORFLOW_NORM = {"eps": 1e-3, "momentum": 0.01}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of `size` pixels so that ceil(size / stride) pixels come out.

    TensorFlow's rule: of an odd number of zeros the additional one is put at the end.
    """
    total = max((output_size(size, stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Convs(nn.Module):
    """Base of stem, head and blocks: convolutions in one of the two forms."""

    def __init__(self, form: str, norm: dict):
        super().__init__()
        self.same, self.norm = form == "tensorflow", norm

    def conv(self, cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1,
             bias: bool = False) -> nn.Conv2d:
        """A convolution without activation."""
        return nn.Conv2d(cin, cout, kernel, stride, 0 if self.same else kernel // 2, groups=groups, bias=bias)

    def bn(self, channels: int) -> nn.BatchNorm2d:
        """A batch norm of this form."""
        return nn.BatchNorm2d(channels, **self.norm)

    def padded(self, x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
        """`x` with "same" padding for `conv`, such as (64, 24, 56, 56) to (64, 24, 57, 57) for kernel 3 at stride 2. A
        layer of its own: the published int8 teacher quantises its zeros."""
        if not self.same:
            return x
        rows, columns = (same_padding(s, conv.kernel_size[0], conv.stride[0]) for s in x.shape[2:])
        return F.pad(x, (*columns, *rows))


class MBConv(_Convs):
    """[1x1 expansion], depthwise convolution, squeeze-and-excitation, linear 1x1 projection, perhaps a shortcut.
    `lite`: without squeeze-and-excitation, and with ReLU6."""

    def __init__(self, cin: int, group: Group, cout: int, stride: int, form: str, norm: dict, lite: bool = False):
        super().__init__(form, norm)
        self.lite, self.act = lite, F.relu6 if lite else F.silu
        mid, squeezed = cin * group.expand, max(1, int(SE_RATIO * cin))
        self.expands, self.shortcut = group.expand != 1, stride == 1 and cin == cout
        if self.expands:
            self._expand_conv, self._bn0 = self.conv(cin, mid), self.bn(mid)
        self._depthwise_conv, self._bn1 = self.conv(mid, mid, group.kernel, stride, groups=mid), self.bn(mid)
        if not lite:
            self._se_reduce, self._se_expand = self.conv(mid, squeezed, bias=True), self.conv(squeezed, mid, bias=True)
        self._project_conv, self._bn2 = self.conv(mid, cout), self.bn(cout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, cin, H, W) to (N, cout, ceil(H / stride), ceil(W / stride)), such as (64, 24, 56, 56) to (64, 40, 28,
        28)."""
        y = self.act(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.act(self._bn1(self._depthwise_conv(self.padded(y, self._depthwise_conv))))
        if not self.lite:
            gate = self._se_expand(F.silu(self._se_reduce(y.mean((2, 3), keepdim=True))))
            y = y * gate.sigmoid()
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class EfficientNet(_Convs, Teacher):
    """EfficientNet with widths and depths of the basic network times `width` and `depth`, without dropout. `lite`: as
    EfficientNet-Lite, whose first convolution and head keep their widths."""

    def __init__(self, width: float, depth: float, num_classes: int, form: str, norm: dict, lite: bool = False):
        super().__init__(form, norm)
        self.act = F.relu6 if lite else F.silu
        stem, head = (STEM, HEAD) if lite else (make_divisible(STEM * width), make_divisible(HEAD * width))
        self._conv_stem, self._bn0 = self.conv(3, stem, 3, 2), self.bn(stem)
        blocks, cin, self.groups = [], stem, {}
        for i, group in enumerate(GROUPS):
            cout, first = make_divisible(group.cout * width), len(blocks)
            for repeat in range(lite_repeats(group, depth) if lite else math.ceil(group.repeats * depth)):
                blocks.append(MBConv(cin, group, cout, group.stride if repeat == 0 else 1, form, norm, lite))
                cin = cout
            self.groups[f"stage{i}"] = range(first, len(blocks))
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = self.conv(cin, head), self.bn(head)
        self._fc = nn.Linear(head, num_classes)
        self.cuts = {"first_conv": range(0), **self.groups}
        self.segments = (*self.cuts, "feature_mix", "logits")
        self._initialize()

    def _initialize(self) -> None:
        # As torchvision: He's normal for convolutions, by the fan of their output.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.uniform_(self._fc.weight, -self._fc.out_features**-0.5, self._fc.out_features**-0.5)
        nn.init.zeros_(self._fc.bias)

    def run_segment(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The output of one segment for its input `x`; that of a stage has no activation."""
        if name == "first_conv":
            x = self.act(self._bn0(self._conv_stem(self.padded(x, self._conv_stem))))
        if name == "feature_mix":
            return self.act(self._bn1(self._conv_head(x)))
        if name == "logits":
            return self._fc(x.mean((2, 3)))
        for i in self.cuts[name]:
            x = self._blocks[i](x)
        return x

    def cut_for_small_images(self) -> bool:
        """The first segment takes stages 0 and 1; stage 2 becomes stages 1 and 2."""
        halved = self.groups["stage2"]
        if len(halved) == 1:
            return False
        self.cuts = {"first_conv": range(halved.start), "stage1": halved[:1], "stage2": halved[1:],
                     **{f"stage{i}": self.groups[f"stage{i}"] for i in range(3, len(GROUPS))}}
        self.segments, self.enlarge = (*self.cuts, "feature_mix", "logits"), 4
        return True

    def torchvision_key(self, key: str) -> str:
        """Our name of the tensor that a torchvision state dict calls `key`."""
        for theirs, ours in (("features.0.0", "_conv_stem"), ("features.0.1", "_bn0"), ("features.8.0", "_conv_head"),
                             ("features.8.1", "_bn1"), ("classifier.1", "_fc")):
            if key.startswith(f"{theirs}."):
                return ours + key[len(theirs):]
        group, i, layer, leaf = re.fullmatch(r"features\.(\d)\.(\d+)\.block\.(\d\.\w+)\.(\w+)", key).groups()
        index = self.groups[f"stage{int(group) - 1}"][int(i)]
        names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2")
        layers = ("0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1")
        if not self._blocks[index].expands:
            names, layers = names[2:], ("0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1")
        return f"_blocks.{index}.{names[layers.index(layer)]}.{leaf}"


def _register(scale: str) -> None:
    # torchvision's B0 to B4 come from a port with PyTorch's own batch-norm constants.
    plain = scale in ("b0", "b1", "b2", "b3", "b4")

    @register_teacher(f"efficientnet-{scale}", torchvision="" if scale in OWN_SCALES else f"efficientnet_{scale}",
                      forms=FORMS)
    def build(num_classes: int, form: str) -> EfficientNet:
        norm = {} if plain and form == "torchvision" else TENSORFLOW_NORM
        return EfficientNet(*SCALES[scale], num_classes, form, norm)


def _register_lite(name: str, scale: LiteScale) -> None:
    @register_teacher(name.replace("_", "-"), forms=("tensorflow",), mean=LITE_MEAN, std=LITE_STD)
    def build(num_classes: int, form: str) -> EfficientNet:
        return EfficientNet(scale.width, scale.depth, num_classes, form, TENSORFLOW_NORM, lite=True)


for _scale in SCALES:
    _register(_scale)
for _name, _lite in LITE.items():
    _register_lite(_name, _lite)
