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
    torch.testing.assert_close(forms.spread_input_gradient(x, u, weight, strides), dx)
    torch.testing.assert_close(forms.summed_weight_gradient(x, u, weight, strides), dw)
    torch.testing.assert_close(forms.windowed_weight_gradient(x, u, weight, strides), dw)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (7, 2), (3, 2)])
def test_bf16_takes_its_forms_and_stays_near(kernel, stride, monkeypatch):
    called = set()

    def noted(name, form):
        return lambda *args: called.add(name) or form(*args)

    for name in ("spread_input_gradient", "windowed_weight_gradient"):
        monkeypatch.setattr(forms, name, noted(name, getattr(forms, name)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 12, 12, generator=generator).requires_grad_()
    weight = torch.randn(8, 1, kernel, kernel, generator=generator).requires_grad_()
    upstream = torch.randn(2, 8, -(-12 // stride), -(-12 // stride), generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(x, weight, None, (stride, stride), 8)
    assert y.dtype == torch.bfloat16
    ours = torch.autograd.grad(y, (x, weight), upstream.bfloat16())
    reference = torch.autograd.grad(F.conv2d(x, weight, None, stride, kernel // 2, 1, 8), (x, weight), upstream)
    for a, b in zip(ours, reference, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()
    small = -(-12 // stride) <= forms.SMALL
    assert called == {"windowed_weight_gradient" for _ in range(kernel > 3 and not small)} | {
        "spread_input_gradient" for _ in range(stride > 1)}
