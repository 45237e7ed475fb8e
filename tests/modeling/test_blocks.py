"""Every block type against a plain functional forward written from the published description of its structure."""
import pytest
import torch
import torch.nn.functional as F

from modules.modeling.blocks import Block
from modules.modeling.spec import BlockArgs, build_block, get_available_blocks
from modules.utils.errors import UserError

ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "swish": lambda x: x * torch.sigmoid(x),
    "hswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
}


def r8(value):
    """Rounding of channels (spaceevo.md 1.3)."""
    result = max(8, int((value + 4) // 8) * 8)
    return result + 8 if result < 0.9 * value else result


class Reference:
    """Layers that read their weights from `state` and check the shape they were built with."""

    def __init__(self, state, act):
        self.state, self.act, self.read = state, ACTIVATIONS[act or "relu"], set()
        self.same = False

    def take(self, key, *shape):
        """The tensor `key`, which must have this shape."""
        assert self.state[key].shape == shape, key
        self.read.add(key)
        return self.state[key]

    def conv(self, x, name, cin, cout, k=1, stride=1, groups=1):
        """A k x k convolution without bias, padded by k // 2, or as TensorFlow does."""
        weight = self.take(f"{name}.weight", cout, cin // groups, k, k)
        if self.same:  # the result has ceil(size / stride) rows, and of an odd sum of zeros the last row has one more
            missing = [max((-(-size // stride) - 1) * stride + k - size, 0) for size in x.shape[:1:-1]]
            x = F.pad(x, [side for total in missing for side in (total // 2, total - total // 2)])
            return F.conv2d(x, weight, None, stride, 0, 1, groups)
        return F.conv2d(x, weight, None, stride, k // 2, 1, groups)

    def bn(self, x, name):
        """Batch norm with running statistics."""
        mean, var, gamma, beta = (self.take(f"{name}.norm.{leaf}", x.shape[1]).view(1, -1, 1, 1)
                                  for leaf in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * gamma + beta

    def cb(self, x, name, cin, cout, k=1, stride=1):
        """Convolution and batch norm."""
        return self.bn(self.conv(x, f"{name}.conv", cin, cout, k, stride), name)

    def dw(self, x, name, c, k, stride):
        """Depthwise convolution and batch norm."""
        return self.bn(self.conv(x, f"{name}.dwconv", c, c, k, stride, groups=c), name)

    def se(self, x, c, mid, act=torch.relu, last=lambda v: (v + 3).clamp(0, 6) / 6):
        """Squeeze-and-excitation."""
        gate = x.mean((2, 3))
        for name, rows, columns, after in (("reduce", mid, c, act), ("expand", c, mid, last)):
            weight = self.take(f"se.fc.{name}.weight", rows, columns, 1, 1).view(rows, columns)
            gate = after(gate @ weight.T + self.take(f"se.fc.{name}.bias", rows))
        return x * gate[:, :, None, None]

    def shortcut(self, x, cin, cout, stride):
        """The input, or its 1 x 1 projection where the shape changes."""
        return self.cb(x, "downsample", cin, cout, 1, stride) if stride > 1 or cin != cout else x


def mobile_bottleneck(net, x, cin, cout, k, e, s, se=False, forced=False, k3=False):
    f, y = r8(cin * e), x
    if f != cin:
        y = net.act(net.cb(y, "point_conv1", cin, f))
    if k3:
        for i in range({3: 1, 5: 2, 7: 3}[k]):
            y = net.conv(y, f"depth_conv.dwconv.{i}", f, f, 3, s if i == 0 else 1, groups=f)
        y = net.act(net.bn(y, "depth_conv"))
    else:
        y = net.act(net.dw(y, "depth_conv", f, k, s))
    if se:
        y = net.se(y, f, r8(f // 4))
    y = net.cb(y, "point_conv2", f, cout)
    if forced:
        return net.shortcut(x, cin, cout, s) + y
    return x + y if s == 1 and cin == cout else y


def mbconv(net, x, cin, cout, k, e, s):
    """EfficientNet's block (Tan and Le, 2019): the squeeze width is a quarter of the input's."""
    f, y = r8(cin * e), x
    if f != cin:
        y = net.act(net.cb(y, "point_conv1", cin, f))
    y = net.se(net.act(net.dw(y, "depth_conv", f, k, s)), f, cin // 4, net.act, torch.sigmoid)
    y = net.cb(y, "point_conv2", f, cout)
    return x + y if s == 1 and cin == cout else y


def mobilenet_v1(net, x, cin, cout, k, e, s):
    return net.act(net.cb(net.act(net.dw(x, "depth_conv", cin, k, s)), "point_conv", cin, cout))


def mobilenet_v1_dual(net, x, cin, cout, k, e, s):
    y = net.act(net.cb(net.act(net.dw(x, "depth_conv1", cin, k, s)), "point_conv1", cin, cout))
    y = net.act(net.cb(net.act(net.dw(y, "depth_conv2", cout, k, 1)), "point_conv2", cout, cout))
    return net.shortcut(x, cin, cout, s) + y


def resnet(net, x, cin, cout, k, e, s, se=False):
    f = r8(cout * e)
    y = net.act(net.cb(x, "conv1", cin, f))
    y = net.act(net.cb(y, "conv2", f, f, k, s))
    if se:
        y = net.se(y, f, r8(cin // 4))
    return net.act(net.shortcut(x, cin, cout, s) + net.cb(y, "conv3", f, cout))


def basic(net, x, cin, cout, k, e, s):
    f = r8(cout * e)
    y = net.act(net.cb(x, "conv1", cin, f, k, s))
    return net.act(net.shortcut(x, cin, cout, s) + net.cb(y, "conv2", f, cout, k))


def uib(net, x, cin, cout, k, e, s, start, middle, forced=False):
    """MobileNetV4's block: depthwise, expansion, depthwise, projection, the stride in the last depthwise."""
    f, y = r8(cin * e), x
    if start:
        y = net.dw(y, "start_conv", cin, start if start > 1 else k, 1 if middle else s)
    y = net.act(net.cb(y, "point_conv1", cin, f, 1, 1 if start or middle else s))
    if middle:
        y = net.act(net.dw(y, "depth_conv", f, k, s))
    y = net.cb(y, "point_conv2", f, cout)
    if forced:
        return net.shortcut(x, cin, cout, s) + y
    return x + y if s == 1 and cin == cout else y


def fused(net, x, cin, cout, k, e, s, se=False, forced=True):
    f = r8(cin * e)
    y = net.act(net.cb(x, "fused_conv", cin, f, k, s))
    if se:
        y = net.se(y, f, r8(cin // 4))
    y = net.cb(y, "point_conv", f, cout)
    if forced:
        return net.shortcut(x, cin, cout, s) + y
    return x + y if s == 1 and cin == cout else y


def zen(net, x, cin, cout, k, e, s, unit, project=False, link=True, se=False):
    """Units of PlainNet (zen_nas.md 1); a projected shortcut is a convolution with bias and norm."""
    f = round(cout * e)

    def gated(y):
        if not se:
            return y
        m, gate = max(1, round(f / 4)), y.mean((2, 3), keepdim=True)
        gate = torch.relu(net.cb(gate, "se.fc.reduce", f, m))
        return y * torch.sigmoid(net.cb(gate, "se.fc.expand", m, f))

    if unit == "KK":
        y = net.cb(gated(net.act(net.cb(x, "conv1", cin, f, k, s))), "conv2", f, cout, k)
    else:
        y = net.act(net.cb(x, "conv1", cin, f))
        y = net.act(net.cb(y, "conv2", f, f, k, s) if unit == "Bottleneck" else net.dw(y, "conv2", f, k, s))
        y = net.cb(gated(y), "conv3", f, cout)
    if link and (project or s > 1 or cin != cout):
        x = net.conv(x, "downsample.conv", cin, cout, 1, s) + net.take("downsample.conv.bias", cout).view(1, -1, 1, 1)
        x = net.bn(x, "downsample")
    return net.act(x + y if link else y)


def plain_conv(net, x, cin, cout, k, e, s):
    return net.act(net.cb(x, "conv", cin, cout, k, s))


def padded_as_in_tensorflow(net, *args, block):
    net.same = True
    return block(net, *args)


def feature_mix(net, x, cin, cout, k, e, s):
    return net.act(net.cb(x.mean((2, 3), keepdim=True), "conv", cin, cout))


def pool(net, x, cin, cout, k, e, s):
    return x.mean((2, 3), keepdim=True)


def logits(net, x, cin, cout, k, e, s):
    return x.flatten(1) @ net.take("linear.weight", cout, cin).T + net.take("linear.bias", cout)


REFERENCES = {
    "Conv": (plain_conv, {}),
    "FeatureMix": (feature_mix, {}),
    "Pool": (pool, {}),
    "Logits": (logits, {}),
    "MobileNetV1": (mobilenet_v1, {}),
    "MobileNetV1Dual": (mobilenet_v1_dual, {}),
    "MobileNetV2": (mobile_bottleneck, {}),
    "MobileNetV3": (mobile_bottleneck, {"se": True}),
    "MobileNetV2Res": (mobile_bottleneck, {"forced": True}),
    "MobileNetV3Res": (mobile_bottleneck, {"se": True, "forced": True}),
    "MobileNetV2K3Res": (mobile_bottleneck, {"forced": True, "k3": True}),
    "MobileNetV3K3Res": (mobile_bottleneck, {"se": True, "forced": True, "k3": True}),
    "ResNet": (resnet, {}),
    "ResNetSE": (resnet, {"se": True}),
    "ResNetBug": (resnet, {}),  # the elastic form, in which the weights were trained
    "ResNetBasic": (basic, {}),
    "ExtraDW": (uib, {"start": 1, "middle": True}),
    "ExtraDW3": (uib, {"start": 3, "middle": True}),
    "ConvNextDW": (uib, {"start": 1, "middle": False}),
    "FFN": (uib, {"start": 0, "middle": False}),
    "ExtraDWRes": (uib, {"start": 1, "middle": True, "forced": True}),
    "FusedMBConv": (fused, {"forced": False}),
    "FusedMBConvRes": (fused, {}),
    "FusedMBConvSERes": (fused, {"se": True}),
    "MBConv": (mbconv, {}),
    "MBConvSame": (padded_as_in_tensorflow, {"block": mbconv}),
    "MobileNetV2Same": (padded_as_in_tensorflow, {"block": mobile_bottleneck}),
    "ConvSame": (padded_as_in_tensorflow, {"block": plain_conv}),
    **{f"Zen{unit}{'SE' * se}{suffix}": (zen, {"unit": unit, "se": se, **options})
       for unit in ("KK", "Bottleneck", "Inverted") for se in (False, True)
       for suffix, options in (("", {}), ("Proj", {"project": True}), ("Chain", {"link": False}))},
}
# cin, cout, kernel, expand, stride, activation; a block type without kernel choice or expansion ignores them.
SHAPES = [
    (16, 16, 3, 1, 1, "relu6"),
    (24, 32, 5, 3, 2, "swish"),
    (40, 40, 7, 1.5, 2, "hswish"),
    (32, 24, 3, 0.5, 1, "relu"),
]


def randomize(module):
    """Give every parameter and statistic a value at which its effect shows."""
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if name.endswith("norm.weight"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                tensor.uniform_(-1, 1)
        for name, tensor in module.named_buffers():
            if name.endswith("running_mean"):
                tensor.uniform_(-0.5, 0.5)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    return module


def test_all_block_types_have_a_reference():
    """A new block type needs one."""
    assert set(REFERENCES) == set(get_available_blocks())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", REFERENCES)
def test_block(kind, shape):
    """Same output, and no weight that the reference does not read."""
    torch.manual_seed(0)
    cin, cout, k, e, s, act = shape
    block = randomize(Block(build_block(BlockArgs(kind, cin, cout, k, e, s, act)), elastic=False)).eval()
    hw = (1, 1) if kind == "Logits" else (9, 6)
    x = torch.randn(2, cin, *hw)
    reference, options = REFERENCES[kind]
    net = Reference(block.state_dict(), act)
    expected = reference(net, x.clone(), cin, cout, k, e, s, **options)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    ignored = ("weight_scale", "activation_scale", "activation_beta", "initialized", "num_batches_tracked")
    assert net.read == {key for key in block.state_dict() if not key.endswith(ignored)}


def test_batch_norm_constants():
    """eps 1e-5 and momentum 0.1 in every norm."""
    block = Block(build_block(BlockArgs("FusedMBConvSERes", 16, 24, 3, 2, 2)), elastic=True)
    norms = [m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 3
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}


def test_unknown_block():
    """A block type that does not exist is named beside those that do."""
    with pytest.raises(UserError, match="unknown block type 'Nothing'; allowed: Conv, ConvSame, FeatureMix, Logits"):
        build_block(BlockArgs("Nothing", 8, 8))
