"""Our forms of convolutions and their gradients against torch's own, in float64."""
import pytest
import torch
import torch.nn.functional as F

from modules.modeling.ops import convolve as forms
from modules.modeling.ops.convolve import convolve


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("hw", [(1, 1), (2, 2), (3, 2), (1, 4), (4, 4), (7, 8), (9, 9)])
def test_output_and_gradients_are_those_of_the_convolution(hw, kernel, stride, layout):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for groups, bias in ((1, None), (6, None), (6, random(6)), (1, random(6))):
        x = random(3, 6, *hw).contiguous(memory_format=layout).requires_grad_()
        weight = random(6, 6 // groups, kernel, kernel).requires_grad_()
        results = []
        for function in (lambda: convolve(x, weight, bias, (stride, stride), groups),  # noqa: B023
                         lambda: F.conv2d(x, weight, bias, stride, kernel // 2, 1, groups)):  # noqa: B023
            y = function()
            upstream = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape).cos()
            results.append((y, *torch.autograd.grad(y, (x, weight), upstream)))
        for ours, reference in zip(*results, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def test_gradient_of_a_frozen_input_or_weight():
    x, weight = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(4, 1, 5, 5, dtype=torch.float64)
    for leaf in (x, weight):
        leaf.requires_grad_()
        ours = torch.autograd.grad(convolve(x, weight, None, (1, 1), 4).square().sum(), leaf)[0]
        reference = torch.autograd.grad(F.conv2d(x, weight, None, 1, 2, 1, 4).square().sum(), leaf)[0]
        torch.testing.assert_close(ours, reference)
        leaf.requires_grad_(False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("hw", [(5, 5), (9, 6), (12, 12)])
def test_every_form_of_a_depthwise_gradient(hw, kernel, stride, layout):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, *hw, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(6, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = F.conv2d(*leaves, None, stride, kernel // 2, 1, 6)
    u = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    dx, dw = torch.autograd.grad(y, leaves, u)
    strides = (stride, stride)
    torch.testing.assert_close(forms.turned_input_gradient(x, u, weight, strides), dx)
    torch.testing.assert_close(forms.looped_weight_gradient(x, u, weight, strides), dw)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 0.0), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [6, 70])
def test_the_loop_reads_fp32_and_bf16(channels, stride, dtype, bound):
    """Sums are in fp32; bf16 keeps 8 binary digits of them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, 11, 9, generator=generator).to(dtype)
    u = torch.randn(3, channels, -(-11 // stride), -(-9 // stride), generator=generator).to(dtype)
    weight = torch.zeros(channels, 1, 5, 5, dtype=torch.float64)
    expected, terms = (torch.nn.grad.conv2d_weight(a, weight.shape, b, stride, 2, 1, channels)
                       for a, b in ((x.double(), u.double()), (x.double().abs(), u.double().abs())))
    found = forms.looped_weight_gradient(x, u, weight.to(dtype), (stride, stride))
    assert found.dtype == dtype
    assert ((found.double() - expected).abs() <= bound * expected.abs() + 1e-6 * terms).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("hw", "kernel", "stride"), [((4, 4), 3, 1), ((3, 4), 5, 1), ((7, 8), 3, 2), ((8, 7), 7, 2)])
def test_product_of_a_dense_weight_gradient(hw, kernel, stride, layout):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, *hw, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(10, 6, kernel, kernel, generator=generator, dtype=torch.float64)
    u = torch.randn(3, 10, *(-(-size // stride) for size in hw), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(forms.multiplied_weight_gradient(x, u, weight, (stride, stride)),
                               torch.nn.grad.conv2d_weight(x, weight.shape, u, stride, kernel // 2))


@pytest.mark.parametrize(("groups", "size", "kernel", "stride", "forms_taken"), [
    (70, 12, 5, 1, {"turned_input_gradient", "looped_weight_gradient"}),
    (70, 24, 3, 2, {"turned_input_gradient", "looped_weight_gradient"}),
    (70, 14, 7, 2, {"turned_input_gradient", "looped_weight_gradient"}),
    (8, 24, 3, 1, {"turned_input_gradient"}),
    (1, 8, 3, 2, {"multiplied_weight_gradient"}),
    (1, 16, 3, 2, set()),
    (1, 12, 1, 2, {"_pointwise"}),
])
def test_bf16_takes_its_forms_and_stays_near(groups, size, kernel, stride, forms_taken, monkeypatch):
    called = set()

    def noted(name, form):
        return lambda *args: called.add(name) or form(*args)

    for name in ("turned_input_gradient", "looped_weight_gradient", "multiplied_weight_gradient", "_pointwise"):
        monkeypatch.setattr(forms, name, noted(name, getattr(forms, name)))
    generator = torch.Generator().manual_seed(0)
    channels = max(groups, 8)
    x = torch.randn(2, channels, size, size, generator=generator).requires_grad_()
    weight = torch.randn(channels, channels // groups, kernel, kernel, generator=generator).requires_grad_()
    side = -(-size // stride)
    upstream = torch.randn(2, channels, side, side, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            y = convolve(x, weight, None, (stride, stride), groups)
        assert y.dtype == torch.bfloat16
        ours = torch.autograd.grad(y, (x, weight), upstream.bfloat16())
    finally:
        torch.set_num_threads(before)
    reference = torch.autograd.grad(F.conv2d(x, weight, None, stride, kernel // 2, 1, groups), (x, weight), upstream)
    for a, b in zip(ours, reference, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()
    assert called == forms_taken


@pytest.mark.parametrize(("threads", "dtype", "looped"), [
    (1, torch.float32, True), (8, torch.float32, True), (9, torch.float32, False), (9, torch.bfloat16, True)])
def test_many_threads_leave_fp32_to_the_library(threads, dtype, looped, monkeypatch):
    called = []
    form = forms.looped_weight_gradient
    monkeypatch.setattr(forms, "looped_weight_gradient", lambda *args: called.append(1) or form(*args))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, weight = torch.randn(2, 8, 9, 9).to(dtype), torch.randn(8, 1, 5, 5).to(dtype).requires_grad_()
        convolve(x, weight, None, (1, 1), 8).sum().backward()
    finally:
        torch.set_num_threads(before)
    assert bool(called) == looped


def test_without_numba_the_library_makes_the_gradients(monkeypatch):
    monkeypatch.setattr(forms, "compiled", lambda name: None)
    x, weight = torch.randn(2, 4, 7, 7, dtype=torch.float64), torch.randn(4, 1, 5, 5, dtype=torch.float64)
    leaf = weight.requires_grad_()
    ours = torch.autograd.grad(convolve(x, weight, None, (2, 2), 4).square().sum(), leaf)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(F.conv2d(x, weight, None, 2, 2, 1, 4).square().sum(), leaf)[0])
