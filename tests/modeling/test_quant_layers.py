"""Layers with quantisers: start values, modes, saving, and plain torch behaviour at 32 bits."""
import copy
import multiprocessing

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.ops.batch_norm import DynamicBatchNorm2d
from modules.modeling.ops.dynamic_op import DynamicQConv, DynamicQLinear
from modules.modeling.ops.fake_quant import lower_bound
from modules.modeling.ops.lsq_plus import QBase, quantize_activation, quantize_weight, set_quant_mode
from modules.modeling.ops.op import QConv, QLinear
from modules.modeling.supernet import Supernet
from modules.utils.errors import UserError


def quantised_linear(x, weight=None, **mode):
    """A linear layer after its first forward on `x` in the mode."""
    layer = set_quant_mode(QLinear(x.shape[1], 3), **mode)
    if weight is not None:
        with torch.no_grad():
            layer.weight.copy_(weight)
    layer(x)
    return layer


def started(layer):
    """Activation scale and offset, weight scale."""
    return [p.item() for p in (layer.activation_scale, layer.activation_beta, layer.weight_scale)]


RANGES = {"mixed": (-1.0, 1.7), "positive": (0.5, 1.7), "negative": (-1.7, -0.5), "zero": (0.0, 0.0)}


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("zero_point", ["integer", "float"])
@pytest.mark.parametrize("name", RANGES)
def test_minmax_start(name, zero_point, bits):
    """The range of the first batch, which with an integer zero point is widened to hold 0."""
    low, high = RANGES[name]
    x = torch.linspace(low, high, 12).view(3, 4)
    layer = quantised_linear(x, nbits_w=bits, nbits_a=bits, zero_point=zero_point)
    if zero_point == "integer":
        low, high = min(low, 0), max(high, 0)
    scale = max((high - low) / (2**bits - 1), 1e-7 / (2**bits - 1))
    assert layer.activation_scale.item() == pytest.approx(scale, rel=1e-6)
    assert layer.activation_beta.item() == pytest.approx(low, rel=1e-6)
    assert layer.weight_scale.item() == pytest.approx(2 * layer.weight.abs().max().item() / (2**bits - 1), rel=1e-6)
    assert layer.initialized.all()
    if name != "zero":
        error = (layer.quantize_input(x) - x).abs().max().item()
        assert error <= scale * (0.51 if zero_point == "float" else 1.01)  # the nudge moves an end by half a step


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("zero_point", ["integer", "float"])
@pytest.mark.parametrize("name", RANGES)
def test_lsq_start(name, zero_point, bits):
    """Twice the mean magnitude over the root of the largest code (Esser et al.); the offset as for the range."""
    low, high = RANGES[name]
    x = torch.linspace(low, high, 12).view(3, 4)
    layer = quantised_linear(x, nbits_w=bits, nbits_a=bits, zero_point=zero_point, start="lsq")
    bound = 1e-7 / (2**bits - 1)
    scale = max(2 * x.abs().mean().item() / (2**bits - 1) ** 0.5, bound)
    assert layer.activation_scale.item() == pytest.approx(scale, rel=1e-6)
    assert layer.activation_beta.item() == pytest.approx(min(low, 0) if zero_point == "integer" else low, rel=1e-6)
    weight_scale = 2 * layer.weight.abs().mean().item() / (2 ** (bits - 1) - 1) ** 0.5
    assert layer.weight_scale.item() == pytest.approx(weight_scale, rel=1e-6)


def test_recorded_start_values(shared_json):
    """Recorded published values; that of the weight is half of the intended one (pitfalls.md)."""
    golden = shared_json("facts", "golden_units.json")
    x = torch.tensor(golden["inputs"]["x"])
    layer = quantised_linear(x, x.expand(3, 6), zero_point="float")
    assert layer.activation_scale.item() == pytest.approx(golden["act_init_scale(max-min 2.7)"], rel=1e-6)
    assert layer.weight_scale.item() == pytest.approx(2 * golden["weight_init_scale(absmax 1.7)"], rel=1e-6)


@pytest.mark.parametrize("start", ["minmax", "lsq"])
def test_zero_weight(start):
    """A weight of zeros gets the lower bound, not a division by zero."""
    layer = quantised_linear(torch.randn(2, 4), torch.zeros(3, 4), start=start)
    assert layer.weight_scale.item() == pytest.approx(lower_bound(8))
    assert torch.equal(layer(torch.randn(2, 4)), layer.bias.expand(2, 3))


def test_lower_bound_in_training():
    """A scale that fell below the bound is raised to it before it is used."""
    layer = quantised_linear(torch.randn(2, 4))
    with torch.no_grad():
        layer.activation_scale.fill_(-1.0)
        layer.weight_scale.fill_(0.0)
    assert layer(torch.randn(2, 4)).isfinite().all()
    assert started(layer)[::2] == pytest.approx([1e-7 / 255] * 2)


def test_a_frozen_scale_below_the_bound_stays():
    """A last step can leave it there; a training of other parts alone does not change the saved layer."""
    layer = quantised_linear(torch.randn(2, 4))
    with torch.no_grad():
        layer.activation_scale.fill_(1e-10)
        layer.weight_scale.fill_(1e-10)
    layer.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    assert layer.train()(torch.randn(2, 4)).isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_start_happens_once_and_is_saved():
    """Later batches, saving, loading and copying keep the start values; a fresh layer starts on its own."""
    layer = quantised_linear(torch.randn(5, 4))
    values = started(layer)
    layer(100 * torch.randn(5, 4))
    assert started(layer) == values
    loaded = set_quant_mode(QLinear(4, 3))
    loaded.load_state_dict(layer.state_dict())
    for other in (loaded, copy.deepcopy(layer)):
        other(100 * torch.randn(5, 4))
        assert started(other) == values
    fresh = set_quant_mode(QLinear(4, 3))
    fresh.load_state_dict(QLinear(4, 3).state_dict())
    fresh(100 * torch.randn(5, 4))
    assert fresh.activation_scale.item() > 10 * values[0]


def test_start_at_the_default_values_is_kept():
    """Start values that happen to be the defaults are not taken for "never started"."""
    layer = quantised_linear(torch.tensor([[0.0, 255.0]]), torch.full((3, 2), 127.5))
    assert started(layer) == [1, 0, 1]
    loaded = set_quant_mode(QLinear(2, 3))
    loaded.load_state_dict(layer.state_dict())
    loaded(torch.randn(5, 2))
    assert started(loaded) == [1, 0, 1]


def _start_on_rank(rank, path, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    x = torch.tensor([[-3.0, 1.0], [-0.5, 5.0]])[rank : rank + 1]
    weight = torch.full((3, 2), 0.5)
    results.put((rank, *[started(quantised_linear(x, weight, start=start)) for start in ("minmax", "lsq")]))
    torch.distributed.destroy_process_group()


def test_start_over_ranks(tmp_path):
    """All ranks start from the range, or the mean magnitude, of all images."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=_start_on_rank, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = sorted(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    for _, minmax, lsq in found:
        assert minmax == pytest.approx([8 / 255, -3, 1 / 255])
        assert lsq == pytest.approx([2 * (2 + 2.75) / 2 / 255**0.5, -3, 2 * 0.5 / 127**0.5])


def run(layer, x, *args):
    """Output, and gradients of input, weight and bias."""
    x = x.detach().clone().requires_grad_()
    out = layer(x, *args)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
    return [out, x.grad, layer.weight.grad] + ([] if layer.bias is None else [layer.bias.grad])


@pytest.mark.parametrize(("plain", "kinds", "arguments", "shape"), [
    (nn.Conv2d, (QConv, DynamicQConv), {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "stride": 2,
                                        "padding": 1, "bias": True}, (2, 6, 7, 5)),
    (nn.Conv2d, (QConv, DynamicQConv), {"in_channels": 6, "out_channels": 6, "kernel_size": 5, "padding": 2,
                                        "groups": 6, "bias": False}, (1, 6, 7, 5)),
    (nn.Linear, (QLinear, DynamicQLinear), {"in_features": 6, "out_features": 4}, (3, 6)),
], ids=["conv", "depthwise", "linear"])
def test_32_bits_is_the_plain_layer(plain, kinds, arguments, shape):
    """Bit for bit, with the same default start of the weights; no quantiser starts. The gradients of an elastic
    depthwise convolution have their own order of sums."""
    x = torch.randn(shape)
    torch.manual_seed(0)
    expected = run(plain(**arguments), x)
    for kind in kinds:
        torch.manual_seed(0)
        layer = set_quant_mode(kind(**arguments), 32, 32)
        own_order = kind is DynamicQConv and arguments.get("groups", 1) > 1
        for index, (a, b) in enumerate(zip(run(layer, x), expected, strict=True)):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-6 if index and own_order else 0)
        assert not layer.initialized.any()
        assert layer.weight_scale.grad is None
        torch.manual_seed(0)
        assert torch.equal(kind(**arguments)(x), expected[0])  # 32 bits is the default


def fake(x, scale, low, high):
    """Plain rounding to codes low ... high."""
    return (x / scale).round().clamp(low, high) * scale


@pytest.mark.parametrize("training", [True, False])
def test_quantised_layers(training):
    """Input and weight are on their grids, bias and output are not touched."""
    x = torch.randn(4, 6, 7, 5)
    conv = set_quant_mode(QConv(6, 8, 3, padding=1)).train(training)
    out = conv(x)
    scale, beta, weight_scale = started(conv)
    zero = round(-beta / scale)
    expected = F.conv2d(fake(x, scale, -zero, 255 - zero), fake(conv.weight, weight_scale, -127, 127), conv.bias,
                        padding=1)
    torch.testing.assert_close(out, expected)
    assert (out - F.conv2d(x, conv.weight, conv.bias, padding=1)).abs().max() > 1e-4


def test_dynamic_conv_slices():
    """The first channels and the centre of the kernel; the slice, not the whole, starts the weight quantiser."""
    x, conv = torch.randn(2, 4, 9, 9), DynamicQConv(6, 8, 7, 2, padding=3)
    expected = F.conv2d(x, conv.weight[:5, :4, 2:5, 2:5], conv.bias[:5], 2, 1)
    torch.testing.assert_close(conv(x, 5, 3), expected)
    with torch.no_grad():
        conv.weight[5:] = 50
    set_quant_mode(conv)
    conv(x, 5, 3)
    used = conv.weight[:5, :4, 2:5, 2:5]
    assert conv.weight_scale.item() == pytest.approx(2 * used.abs().max().item() / 255)
    conv.weight_scale.grad = None
    conv(x, 5, 3).sum().backward()
    sliced = QConv(4, 5, 3, 2, padding=1)
    with torch.no_grad():
        sliced.weight.copy_(used)
        sliced.bias.copy_(conv.bias[:5])
    set_quant_mode(sliced)(x).sum().backward()
    assert torch.equal(sliced.weight_scale.grad, conv.weight_scale.grad)  # the count is the slice's
    assert torch.equal(sliced.activation_beta.grad, conv.activation_beta.grad)


def test_dynamic_depthwise_and_linear_slices():
    """Depthwise layers follow their input's channels, linear ones take leading rows and columns."""
    conv, linear = DynamicQConv(6, 6, 5, padding=2, groups=6, bias=False), DynamicQLinear(6, 4)
    x = torch.randn(2, 4, 7, 7)
    torch.testing.assert_close(conv(x, None, 3), F.conv2d(x, conv.weight[:4, :, 1:4, 1:4], None, 1, 1, 1, 4))
    x = torch.randn(2, 5)
    torch.testing.assert_close(linear(x, 3), F.linear(x, linear.weight[:3, :5], linear.bias[:3]))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_dynamic_batch_norm(momentum):
    """A slice behaves as a batch norm of its own, also with the cumulative average of a calibration."""
    torch.manual_seed(0)
    norm, plain = DynamicBatchNorm2d(6, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)
    for parameter in (norm.weight, norm.bias):
        nn.init.normal_(parameter)
    plain.load_state_dict({k: v[:4] if v.dim() else v for k, v in norm.state_dict().items()})
    for _ in range(3):
        x = torch.randn(3, 4, 5, 5)
        assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.eval()(x), plain.eval()(x))
    for name, value in plain.state_dict().items():
        ours = norm.state_dict()[name]
        assert torch.equal(ours[:4] if ours.dim() else ours, value)
    assert torch.equal(norm.running_mean[4:], torch.zeros(2))


@pytest.mark.parametrize("bits", [1, 9, 16, 0, -8])
@pytest.mark.parametrize("which", ["nbits_w", "nbits_a"])
def test_refused_bits(which, bits):
    """The message names the value and the allowed ones; the model stays as it was."""
    layer = QLinear(2, 2)
    with pytest.raises(UserError, match=rf"{which} {bits} .*allowed: 2, 3, 4, 5, 6, 7, 8, 32$"):
        set_quant_mode(layer, **{which: bits})
    assert (layer.nbits_w, layer.nbits_a) == (32, 32)


@pytest.mark.parametrize(("mode", "message"), [({"zero_point": "none"}, "'none' .*allowed: integer, float"),
                                               ({"start": "max"}, "'max' .*allowed: minmax, lsq")])
def test_refused_modes(mode, message):
    """Unknown modes are refused too."""
    with pytest.raises(UserError, match=message):
        set_quant_mode(QLinear(2, 2), **mode)


def test_set_quant_mode_reaches_nested_layers():
    """Every layer, and back to 32 bits."""
    model = nn.Sequential(QConv(2, 2, 1), nn.ModuleDict({"inner": nn.Sequential(QLinear(2, 2))}))
    layers = [model[0], model[1]["inner"][0]]
    assert set_quant_mode(model, 4, 5) is model
    assert [(m.nbits_w, m.nbits_a) for m in layers] == [(4, 5)] * 2
    set_quant_mode(model, 32, 32)
    assert [(m.nbits_w, m.nbits_a) for m in layers] == [(32, 32)] * 2


@pytest.mark.parametrize("read", [torch.Tensor.item, bool, float, torch.Tensor.tolist, torch.Tensor.numpy,
                                  lambda t: t[t > 0], lambda t: torch.equal(t, t)])
def test_values_of_meta_tensors_cannot_be_read(read):
    """The next test relies on this."""
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        read(torch.ones(2, device="meta")[0])


@pytest.mark.parametrize("zero_point", ["integer", "float"])
@pytest.mark.parametrize("training", [True, False])
def test_no_synchronisation_after_the_start(training, zero_point):
    """Once started, forward and backward pass read no value of a tensor: they run on tensors that have none."""
    supernet = set_quant_mode(Supernet.build_from_str("onnxw_tiny-054321-000000", 4, (32,)), zero_point=zero_point)
    supernet.train(training)
    activations = (supernet.set_max_subnet, supernet.set_min_subnet)
    for activate in activations:
        activate()
        supernet(torch.randn(2, 3, 32, 32))
    supernet.to("meta")
    for activate in activations:
        activate()
        out = supernet(torch.empty(2, 3, 32, 32, device="meta"))
        if training:
            out.sum().backward()


def test_the_start_reads_no_value_either():
    """Not even the first pass does: start values are computed where the tensors are."""
    layer = set_quant_mode(QConv(2, 2, 1)).to("meta")
    layer(torch.empty(2, 2, 3, 3, device="meta")).sum().backward()


class OwnScale(QBase, nn.Module):
    """A layer as a user writes it: a factor for every channel."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, channels))

    def forward(self, x):
        x, weight = self.get_quant_x_w(x, self.weight)
        return x * weight


class PublishedScale(OwnScale):
    """The same with the constructors called one after the other, as published layers do."""

    def __init__(self, channels):
        nn.Module.__init__(self)
        QBase.__init__(self)
        self.weight = nn.Parameter(torch.linspace(-1, 1, channels))


class OwnAct(QBase, nn.Module):
    """A layer without a weight."""

    def __init__(self):
        super().__init__(no_weight=True)

    def forward(self, x):
        return torch.relu(self.get_quant_x_w(x, None)[0])


@pytest.mark.parametrize("kind", [OwnScale, PublishedScale])
def test_a_layer_of_ones_own(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), kind(8), OwnAct(), nn.Linear(8, 3)), torch.randn(16, 6)
    own, act = model[1], model[2]
    assert torch.equal(own(x[:, :1].expand(16, 8)), x[:, :1] * own.weight)  # fp32: as it is
    assert sorted(dict(act.named_parameters())) == ["activation_beta", "activation_scale"]

    set_quant_mode(model)
    assert (own.nbits_w, own.nbits_a, act.nbits_w, act.nbits_a) == (8, 8, 32, 8)
    hidden = model[0](x).detach()
    low, high = min(hidden.min().item(), 0), max(hidden.max().item(), 0)
    found = model[:2](x)
    assert started(own) == pytest.approx([(high - low) / 255, low, 2 / 255], rel=1e-5)  # from the first batch
    assert torch.equal(found, quantize_activation(hidden, own.activation_scale, 8, own.activation_beta, False)
                       * quantize_weight(own.weight, own.weight_scale, 8, False))

    optimizer, labels = torch.optim.SGD(model.parameters(), 0.5), torch.randint(3, (16,))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(x), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert started(own) != pytest.approx([(high - low) / 255, low, 2 / 255], rel=1e-5)  # scales learn, too
    again = set_quant_mode(nn.Sequential(nn.Linear(6, 8), kind(8), OwnAct(), nn.Linear(8, 3)))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model.eval()(x))
