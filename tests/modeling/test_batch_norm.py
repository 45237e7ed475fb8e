"""Batch norm, activation and quantiser in one pass of loops, against torch in float64 of the same values."""

import pytest
import torch
import torch.nn.functional as F
from processes import run_script

from modules.modeling.blocks import Block
from modules.modeling.ops import batch_norm, fake_quant
from modules.modeling.ops.batch_norm import DynamicBatchNorm2d, Normed
from modules.modeling.ops.dynamic_op import DynamicQConv
from modules.modeling.ops.lsq_plus import set_quant_mode
from modules.modeling.spec import BlockArgs, build_block

EPS = 1e-3
STEP, OFFSET = 0.05, -0.52
ACTIVATIONS = {"": lambda x: x, "relu": torch.relu, "relu6": F.relu6, "hswish": F.hardswish}
FORMATS = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(batch_norm, "FEWEST", 1)
    yield
    torch.set_num_threads(before)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps(shape, dtype):
    """A map whose channels have other means and deviations, and a gradient of it."""
    spread, middle = (torch.linspace(a, b, shape[1]).view(-1, 1, 1) for a, b in ((0.1, 3), (-5, 5)))
    x = random(*shape) * spread + middle
    return (v.to(dtype).contiguous(memory_format=torch.channels_last) for v in (x, random(*shape, seed=1)))


def layer(channels, like):
    norm = DynamicBatchNorm2d(channels, eps=EPS).to(like)
    with torch.no_grad():
        norm.weight.copy_(random(channels, seed=2))
        norm.bias.copy_(random(channels, seed=3))
        norm.running_mean.fill_(0.5)
        norm.running_var.fill_(2.0)
    return norm.train()


def coded_reference(h, leaves, u):
    """The output for the float64 activation `h`, and gradients of `leaves`, of the step and of the offset, by the
    table in fake_quant.py."""
    zero = round(-OFFSET / STEP)
    t, g = h.detach() / STEP + zero, (h[0].numel() * 255) ** -0.5
    code = t.round().clamp(0, 255)
    inside, top = (t > 0) & (t < 255), t >= 255
    gradients = torch.autograd.grad(h, leaves, u * inside)
    of_step = g * (u * (inside * (code - t) + top * 255)).sum()
    return (code - zero) * STEP, *gradients, of_step.view(1), (g * (u * ~inside).sum()).view(1)


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", [(4, 8, 6, 6), (3, 24, 5, 7), (2, 300, 9, 9), (129, 3, 1, 1), (3, 1100, 2, 2)])
def test_output_gradients_and_statistics(shape, dtype, activation, coded):
    x, u = maps(shape, dtype)
    results, g = [], (x[0].numel() * 255) ** -0.5
    for ours in (True, False):
        leaf = (x if ours else x.double()).clone().requires_grad_()
        norm = layer(shape[1], torch.float32 if ours else torch.float64)
        leaves = [leaf, norm.weight, norm.bias]
        if ours:
            normed = norm.deferred(leaf)
            assert isinstance(normed, Normed)
            normed = normed.activated(activation) if activation else normed
            codes = [torch.tensor([v], requires_grad=True) for v in (STEP, OFFSET)] if coded else []
            y = normed.quantized(*codes, 8, "integer") if coded else normed._looped(None, None, 0, False)
            assert y.dtype == dtype
            assert y.stride() == x.stride()
            values = [y, *torch.autograd.grad(y, [*leaves, *codes], u)]
        else:
            h = ACTIVATIONS[activation](F.batch_norm(leaf, norm.running_mean, norm.running_var, norm.weight, norm.bias,
                                                     True, norm.momentum, EPS))
            values = (coded_reference(h, leaves, u.double()) if coded
                      else [h, *torch.autograd.grad(h, leaves, u.double())])
        results.append([*values, norm.running_mean, norm.running_var])
    for index, (ours, reference) in enumerate(zip(*results, strict=True)):
        difference, size = (ours.double() - reference).abs(), reference.abs()
        scale = size.amax((0, 2, 3), keepdim=True) if reference.ndim == 4 else size.max()
        rounding = 2**-8 if index < 2 and dtype == torch.bfloat16 else 1e-5  # bf16 has 8 binary digits
        bound = rounding * size + 1e-5 * scale.clamp(min=1)  # a channel may be 0 almost everywhere
        statistic = index >= len(values)
        if statistic or not (coded or (activation and index)):
            assert (difference <= bound).all()
            continue
        # Beside the middle of two codes, or beside a bound, a value may fall to the other side.
        if reference.ndim == 4:
            assert (difference > bound + 1e-4 * scale).double().mean() < 0.002
        assert (difference <= bound + (1.001 * STEP, 5, 5, 5, 5 * g, 5 * g)[index]).all()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("channels", [16, 10])
@pytest.mark.parametrize("dtype", FORMATS)
def test_the_layer_takes_the_loops_for_its_first_channels(channels, momentum, dtype, monkeypatch):
    """Against the same layer without them; the channels not used have gradient 0."""
    x = random(4, channels, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    results = []
    for looped in (True, False):
        if not looped:
            monkeypatch.setattr(batch_norm, "looped", lambda x: False)
        norm = DynamicBatchNorm2d(16, momentum=momentum).train()
        first, second = norm.deferred(x), norm.deferred(x + 1)
        if looped:
            first, second = (normed.activated("relu").tensor() for normed in (first, second))
        else:
            first, second = first.relu(), second.relu()
        (first * second).sum().backward()
        results.append([first, second, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var,
                        norm.num_batches_tracked])
    bound = 1e-4 if dtype == torch.float32 else 2**-7
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), reference.double(), rtol=bound, atol=bound * 10)
    assert not results[0][2][channels:].any()
    torch.testing.assert_close(results[0][4], results[1][4], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("placement", ["layers", "tensors"])
@pytest.mark.parametrize("kind", ["MobileNetV2Res", "MobileNetV3Res", "ResNetSE", "FusedMBConvRes", "ResNetBasic"])
@pytest.mark.parametrize("bits", [32, 8])
def test_blocks_learn_as_without_the_loops(kind, placement, bits, monkeypatch):
    """Output, gradients and statistics of a block, of which each layer gives its norm to the next one's quantiser."""
    results = []
    for looped in (True, False):
        if not looped:
            monkeypatch.setattr(batch_norm, "looped", lambda x: False)
        torch.manual_seed(0)
        expand = 0.5 if kind.startswith("ResNet") else 2
        block = Block(build_block(BlockArgs(kind, 16, 16, 3, expand, 1, "hswish")), False).train()
        if placement == "tensors":
            block.own_tensors(True, torch.device("cpu"))
        set_quant_mode(block, bits, bits)
        x = random(4, 16, 8, 8).contiguous(memory_format=torch.channels_last)
        block(x)  # start values
        x.requires_grad_()
        y = block(x)
        (y * random(*y.shape, seed=1)).sum().backward()
        gradients = [p.grad for p in block.parameters() if p.grad is not None]
        results.append([y.detach(), x.grad, *gradients, *(b for b in block.buffers() if b.is_floating_point())])
    for ours, reference in zip(*results, strict=True):
        error = (ours - reference).norm() / reference.norm().clamp(min=1e-3)
        assert error < (1e-4 if bits == 32 else 0.05), error  # a value may fall to the next code


def test_a_quantiser_that_does_not_learn_rounds_as_elsewhere():
    """Its norm may learn: the pass of both would give the scale a gradient."""
    x = random(4, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    norm, conv = DynamicBatchNorm2d(16).train(), set_quant_mode(DynamicQConv(16, 16, 1))
    conv.quantize_input(norm(x))  # start values
    conv.eval()
    y = conv.quantize_input(norm.deferred(x).activated("relu"))
    assert torch.equal(y, conv.quantize_input(norm(x).relu()))
    y.sum().backward()
    assert conv.activation_scale.grad is None


def test_which_maps_go_through_the_loops(monkeypatch):
    x = random(2, 8, 6, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    norm = DynamicBatchNorm2d(8).train()
    assert batch_norm.looped(x)
    assert batch_norm.looped(x.float())
    assert not batch_norm.looped(x.double())
    assert not batch_norm.looped(x.contiguous())
    with torch.no_grad():
        assert isinstance(norm.deferred(x), torch.Tensor)
    assert isinstance(norm.deferred(x), Normed)
    handle = norm.register_forward_hook(lambda module, inputs, output: None)
    assert isinstance(norm.deferred(x), torch.Tensor)
    handle.remove()
    assert isinstance(norm.eval().deferred(x), torch.Tensor)
    torch.set_num_threads(2)
    assert not batch_norm.looped(x)
    torch.set_num_threads(1)
    fake_quant.use_form(fake_quant.OPERATIONS)
    assert not batch_norm.looped(x)
    fake_quant.use_form(fake_quant.LOOPS)
    monkeypatch.setattr(batch_norm, "compiled", lambda name: None)
    assert not batch_norm.looped(x)


def test_the_quantisers_loops_keep_their_arithmetic(tmp_path):
    """Compiled first as a part of these loops, whose sums may be reordered, they still give torch's values to the
    bit."""
    program = """
import torch
from modules.modeling.ops import batch_norm, fake_quant
torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
scale, beta = torch.tensor([0.0123]), torch.tensor([-0.7])
for zero_point in ("integer", "float"):
    normed = batch_norm.DynamicBatchNorm2d(8).train().deferred(x)
    normed.quantized(scale, beta, 8, zero_point).sum().backward()
    values = []
    for form in (fake_quant.LOOPS, fake_quant.OPERATIONS):
        fake_quant.use_form(form)
        values.append(fake_quant.quantize_activation(x.detach(), scale, 8, beta, False, zero_point))
    assert torch.equal(*values), zero_point
    fake_quant.use_form(fake_quant.LOOPS)
"""
    done = run_script("-c", program, env={"NUMBA_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
