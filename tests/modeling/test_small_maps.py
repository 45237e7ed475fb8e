"""Convolutions of small maps against torch's own, in float64."""
import pytest
import torch
import torch.nn.functional as F

from modules.modeling.ops.small_maps import convolve


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
