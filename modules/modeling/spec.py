"""The structure of every block, as data. No other part of the project knows the structure of a block.

A block function maps (cin, cout, kernel, expand, stride, act) to a frozen `BlockSpec`. It lists every layer that the
block type can have; `used=False` marks a layer that this configuration leaves out. A supernet builds all listed layers
of the largest configuration, a subnet only the used ones of its own.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod

from modules.utils.registry import Registry


def output_size(size: int, stride: int) -> int:
    """Number of rows, or columns, that a convolution with an odd kernel and padding kernel // 2 makes from `size`, such
    as 14 from 28 at stride 2."""
    return -(-size // stride)


def borders(size: int, kernel: int, stride: int, same: bool = False) -> tuple[int, int]:
    """Rows of zeros before and after `size` rows that a convolution of an odd kernel reads.

    kernel // 2 before, and after as many as the last window needs; with `same` both halves of their sum, the larger one
    after, as TensorFlow pads: borders(224, 3, 2) is (1, 0), borders(224, 3, 2, same=True) is (0, 1).
    """
    total = max((output_size(size, stride) - 1) * stride + kernel - size, 0)
    before = total // 2 if same else kernel // 2
    return before, max(total - before, 0)


@dataclass(frozen=True)
class ConvSpec:
    """A convolution with its batch norm and activation.

    `stack` > 0 makes it a chain of `stack` depthwise convolutions of kernel size 3. Only the first has the stride; one
    norm and one activation follow the chain. `same`: padded as TensorFlow does (`borders`).
    """

    name: str
    cin: int
    cout: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    stack: int = 0
    act: str | None = None
    norm: bool = True
    bias: bool = False
    used: bool = True
    same: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each convolution."""
        return (self.stride,) + (1,) * (self.stack - 1)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """The shape (out, in / groups, height, width) of the weight of each convolution, such as (24, 16, 3, 3)."""
        return self.cout, 1 if self.depthwise else self.cin, self.kernel, self.kernel

    @property
    def weight_size(self) -> int:
        """The number of values in the weight of each convolution."""
        return prod(self.weight_shape)


@dataclass(frozen=True)
class SESpec:
    """Squeeze-and-excitation on `channels` channels with a hidden layer of `mid`.

    `act` follows the hidden layer; `gate` turns the result into factors. The two convolutions have a bias, or a norm
    instead.
    """

    channels: int
    mid: int
    name: str = "se"
    used: bool = True
    act: str = "relu"
    gate: str = "hard_sigmoid"
    norm: bool = False

    @property
    def reduce(self) -> ConvSpec:
        """The first of its two pointwise convolutions."""
        return self._conv("se.fc.reduce", self.channels, self.mid, self.act)

    @property
    def expand(self) -> ConvSpec:
        """The second one, whose output passes `gate`."""
        return self._conv("se.fc.expand", self.mid, self.channels, self.gate)

    def _conv(self, name: str, cin: int, cout: int, act: str) -> ConvSpec:
        return ConvSpec(name, cin, cout, act=act, norm=self.norm, bias=not self.norm)


@dataclass(frozen=True)
class PoolSpec:
    """Mean over height and width."""

    name: str = "pool"
    used: bool = True


@dataclass(frozen=True)
class LinearSpec:
    """The classifier: dropout (in training only), then a linear layer with bias."""

    cin: int
    cout: int
    name: str = "linear"
    used: bool = True


@dataclass(frozen=True)
class BlockArgs:
    """Arguments of a block; `act` is the candidate's activation."""

    kind: str
    cin: int
    cout: int
    kernel: int = 3
    expand: float | None = None
    stride: int = 1
    act: str | None = "relu"


@dataclass(frozen=True)
class BlockSpec:
    """Layers in order of execution, the shortcut that is added to their output, and the activation after the addition.

    `residual`: whether a shortcut is added. The shortcut passes `downsample` if that is present and used.
    `registration` is the published order in which layers are counted; the default is main layers, then downsample.
    `last` names the convolution whose norm starts at zero under `zero_last_gamma` (None: none).
    `sometimes_residual`: of the largest block in a supernet: whether others have the shortcut that it has not.
    """

    args: BlockArgs
    main: tuple
    residual: bool = False
    downsample: ConvSpec | None = None
    post_act: str | None = None
    registration: tuple[str, ...] = ()
    last: str | None = None
    sometimes_residual: bool = False

    @property
    def layers(self) -> tuple:
        """Every layer of the block type, used or not."""
        return self.main + ((self.downsample,) if self.downsample else ())


_blocks: Registry[Callable[..., BlockSpec]] = Registry("block type")


def register_block(kind: str, **fixed):
    """Register a block function under `kind`, with some of its keyword arguments fixed. Can be stacked."""
    def decorator(function):
        _blocks.add(kind, partial(function, **fixed))
        return function
    return decorator


def get_available_blocks(pattern: str = "*") -> list[str]:
    """Names of the block types that match `pattern`, such as "MobileNetV3*"."""
    return _blocks.names(pattern)


@lru_cache(maxsize=100_000)
def build_block(args: BlockArgs) -> BlockSpec:
    """The structure of the block described by `args`; UserError for an unknown block type."""
    return replace(_blocks[args.kind](args.cin, args.cout, args.kernel, args.expand, args.stride, args.act), args=args)


def make_divisible(value: float) -> int:
    """`value` rounded to a multiple of 8, at least 8, and never below 90% of `value` (the MobileNet rule)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * value else rounded + 8


def _downsample(cin: int, cout: int, stride: int) -> ConvSpec:
    return ConvSpec("downsample", cin, cout, stride=stride, used=stride > 1 or cin != cout)


NO_ARGS = BlockArgs("", 0, 0)  # of the spec that a block function returns: `build_block` fills them in


@register_block("Conv")
def conv(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """One convolution with norm and activation: first_conv and final_expand."""
    return BlockSpec(NO_ARGS, (ConvSpec("conv", cin, cout, kernel, stride, act=act),))


@register_block("ConvSame")
def conv_same(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """The same, padded as TensorFlow does."""
    return same_padded(conv(cin, cout, kernel, expand, stride, act))


def same_padded(block: BlockSpec) -> BlockSpec:
    """`block` with its strided convolutions padded as TensorFlow does."""
    return replace(block, main=tuple(replace(layer, same=True) if isinstance(layer, ConvSpec) and layer.stride > 1
                                     else layer for layer in block.main))


@register_block("FeatureMix")
def feature_mix(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """Global mean, then a pointwise convolution."""
    return BlockSpec(NO_ARGS, (PoolSpec(), ConvSpec("conv", cin, cout, act=act)))


@register_block("Logits")
def logits(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """The classifier."""
    return BlockSpec(NO_ARGS, (LinearSpec(cin, cout),))


@register_block("Pool")
def pool(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """Global mean."""
    return BlockSpec(NO_ARGS, (PoolSpec(),))


@register_block("MobileNetV1")
def mobilenet_v1(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """Depthwise-separable convolution without shortcut."""
    return BlockSpec(NO_ARGS, (
        ConvSpec("depth_conv", cin, cin, kernel, stride, depthwise=True, act=act),
        ConvSpec("point_conv", cin, cout, act=act),
    ))


@register_block("MobileNetV1Dual")
def mobilenet_v1_dual(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """Two depthwise-separable convolutions with a shortcut around both."""
    return BlockSpec(NO_ARGS, (
        ConvSpec("depth_conv1", cin, cin, kernel, stride, depthwise=True, act=act),
        ConvSpec("point_conv1", cin, cout, act=act),
        ConvSpec("depth_conv2", cout, cout, kernel, depthwise=True, act=act),
        ConvSpec("point_conv2", cout, cout, act=act),
    ), residual=True, downsample=_downsample(cin, cout, stride), last="point_conv2")


@register_block("MobileNetV2")
@register_block("MobileNetV3", se=True)
@register_block("MobileNetV2Res", forced_residual=True)
@register_block("MobileNetV3Res", se=True, forced_residual=True)
@register_block("MobileNetV2K3Res", forced_residual=True, k3=True)
@register_block("MobileNetV3K3Res", se=True, forced_residual=True, k3=True)
def inverted_bottleneck(cin, cout, kernel, expand, stride, act, se=False, forced_residual=False, k3=False) -> BlockSpec:
    """MobileNetV2/V3 block. `forced_residual` gives a projected shortcut where shapes differ; `k3` replaces the k x k
    depthwise convolution by (k-1)/2 stacked 3 x 3 convolutions."""
    hidden = make_divisible(cin * expand)
    depthwise = ConvSpec("depth_conv", hidden, hidden, kernel, stride, depthwise=True, act=act)
    if k3:
        depthwise = replace(depthwise, kernel=3, stack=(kernel - 1) // 2)
    return BlockSpec(
        NO_ARGS,
        (
            ConvSpec("point_conv1", cin, hidden, act=act, used=hidden != cin),
            depthwise,
            *((SESpec(hidden, make_divisible(hidden // 4)),) if se else ()),
            ConvSpec("point_conv2", hidden, cout),
        ),
        residual=forced_residual or (stride == 1 and cin == cout),
        downsample=_downsample(cin, cout, stride) if forced_residual else None,
        last="point_conv2" if forced_residual else None,
    )


@register_block("MBConv")
def efficientnet_block(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """EfficientNet's inverted bottleneck: its squeeze width follows the input width, its gate is a sigmoid."""
    plain = inverted_bottleneck(cin, cout, kernel, expand, stride, act)
    hidden = plain.main[-1].cin
    return replace(plain, main=(*plain.main[:-1], SESpec(hidden, max(1, cin // 4), act=act, gate="sigmoid"),
                                plain.main[-1]))


@register_block("MBConvSame")
def tensorflow_block(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """The same, padded as TensorFlow does."""
    return same_padded(efficientnet_block(cin, cout, kernel, expand, stride, act))


@register_block("MobileNetV2Same")
def lite_block(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """EfficientNet-Lite's block: MobileNetV2's, padded as TensorFlow does."""
    return same_padded(inverted_bottleneck(cin, cout, kernel, expand, stride, act))


@register_block("ResNet")
@register_block("ResNetSE", se=True)
@register_block("ResNetBug")
def bottleneck(cin, cout, kernel, expand, stride, act, se=False) -> BlockSpec:
    """ResNet bottleneck; its hidden width follows the output width, its squeeze width the input width.

    ResNetBug's published elastic form is this block; its published static form drops the branch. Here both are the
    elastic form: its weights were trained.
    """
    hidden = make_divisible(cout * expand)
    return BlockSpec(
        NO_ARGS,
        (
            ConvSpec("conv1", cin, hidden, act=act),
            ConvSpec("conv2", hidden, hidden, kernel, stride, act=act),
            *((SESpec(hidden, make_divisible(cin // 4)),) if se else ()),
            ConvSpec("conv3", hidden, cout),
        ),
        residual=True,
        downsample=_downsample(cin, cout, stride),
        post_act=act,
        registration=("conv1", "conv2", "conv3", "downsample", "se"),
        last="conv3",
    )


@register_block("ResNetBasic")
def basic_block(cin, cout, kernel, expand, stride, act) -> BlockSpec:
    """ResNet's block of two dense k x k convolutions; the width between them follows the output width."""
    hidden = make_divisible(cout * expand)
    return BlockSpec(
        NO_ARGS,
        (ConvSpec("conv1", cin, hidden, kernel, stride, act=act), ConvSpec("conv2", hidden, cout, kernel)),
        residual=True, downsample=_downsample(cin, cout, stride), post_act=act, last="conv2")


@register_block("ExtraDW", start=0, middle=True)
@register_block("ExtraDW3", start=3, middle=True)
@register_block("ConvNextDW", start=0, middle=False)
@register_block("FFN", start=None, middle=False)
@register_block("ExtraDWRes", start=0, middle=True, forced_residual=True)
def universal_inverted_bottleneck(cin, cout, kernel, expand, stride, act, start, middle,
                                  forced_residual=False) -> BlockSpec:
    """MobileNetV4's universal inverted bottleneck (Qin et al., 2024): an optional depthwise convolution on the input,
    without activation, and an optional one between expansion and projection. The latter has the stride if it is there.

    The member of the family with the middle convolution alone is MobileNetV2. `start` is the kernel size of the first
    depthwise convolution (0: the block's, None: there is none); `forced_residual` as of `inverted_bottleneck`.
    """
    hidden = make_divisible(cin * expand)
    main = [ConvSpec("point_conv1", cin, hidden, act=act)]
    if start is not None:
        main.insert(0, ConvSpec("start_conv", cin, cin, start or kernel, 1 if middle else stride, depthwise=True))
    if middle:
        main.append(ConvSpec("depth_conv", hidden, hidden, kernel, stride, depthwise=True, act=act))
    elif start is None:
        main[0] = replace(main[0], stride=stride)
    return BlockSpec(
        NO_ARGS, (*main, ConvSpec("point_conv2", hidden, cout)),
        residual=forced_residual or (stride == 1 and cin == cout),
        downsample=_downsample(cin, cout, stride) if forced_residual else None,
        last="point_conv2" if forced_residual else None)


@register_block("FusedMBConv", forced_residual=False)
@register_block("FusedMBConvRes")
@register_block("FusedMBConvSERes", se=True)
def fused_inverted_bottleneck(cin, cout, kernel, expand, stride, act, se=False, forced_residual=True) -> BlockSpec:
    """Inverted bottleneck whose expansion and depthwise convolution are one dense k x k convolution."""
    hidden = make_divisible(cin * expand)
    return BlockSpec(
        NO_ARGS,
        (
            ConvSpec("fused_conv", cin, hidden, kernel, stride, act=act),
            *((SESpec(hidden, make_divisible(cin // 4)),) if se else ()),
            ConvSpec("point_conv", hidden, cout),
        ),
        residual=forced_residual or (stride == 1 and cin == cout),
        downsample=_downsample(cin, cout, stride) if forced_residual else None,
        last="point_conv" if forced_residual else None,
    )
