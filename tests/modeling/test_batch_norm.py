"""The loops of batch norm in bf16 against torch's batch norm in float64 of the same values."""
import pytest
import torch
import torch.nn.functional as F

from modules.modeling.ops import batch_norm
from modules.modeling.ops.dynamic_op import DynamicBatchNorm2d

EPS = 1e-3


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(batch_norm, "FEWEST", 1)
    yield
    torch.set_num_threads(before)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 8, 6, 6), (3, 24, 5, 7), (2, 300, 9, 9), (129, 3, 1, 1)])
def test_output_gradients_and_statistics(shape):
    channels = shape[1]
    spread, middle = (torch.linspace(a, b, channels).view(-1, 1, 1) for a, b in ((0.1, 3), (-5, 5)))
    x = random(*shape) * spread + middle
    x, u = (v.bfloat16().contiguous(memory_format=torch.channels_last) for v in (x, random(*shape, seed=1)))
    weight, bias = random(channels, seed=2), random(channels, seed=3)
    results = []
    for dtype, function in ((torch.float32, batch_norm.batch_norm), (torch.float64, None)):
        leaves = [(x if function else x.double()).clone().requires_grad_(), *(
            v.to(dtype).clone().requires_grad_() for v in (weight, bias))]
        mean, var = torch.full((channels,), 0.5, dtype=dtype), torch.full((channels,), 2.0, dtype=dtype)
        if function:
            assert batch_norm.looped(leaves[0])
            y = function(leaves[0], mean, var, *leaves[1:], 0.1, EPS)
            assert y.dtype == torch.bfloat16
            assert y.stride() == x.stride()
        else:
            y = F.batch_norm(leaves[0], mean, var, *leaves[1:], True, 0.1, EPS)
        results.append([y, *torch.autograd.grad(y, leaves, u.to(y.dtype)), mean, var])
    for index, (ours, reference) in enumerate(zip(*results, strict=True)):
        scale = reference.abs().amax((0, 2, 3), keepdim=True) if reference.ndim == 4 else reference.abs().max()
        bound = 2**-8 if index < 2 else 1e-5  # bf16 has 8 binary digits
        assert ((ours.double() - reference).abs() <= bound * reference.abs() + 1e-5 * scale).all()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("channels", [16, 10])
def test_the_layer_takes_the_loops_for_its_first_channels(channels, momentum, monkeypatch):
    """Against the same layer without them: bf16 rounds the output alike but for the last place."""
    x = random(4, channels, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    results = []
    for looped in (True, False):
        if not looped:
            monkeypatch.setattr(batch_norm, "looped", lambda x: False)
        layer = DynamicBatchNorm2d(16, momentum=momentum).train()
        results.append([layer(x), layer(x + 1), layer.running_mean, layer.running_var, layer.num_batches_tracked])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), reference.double(), rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-4, atol=1e-6)


def test_which_maps_go_through_the_loops(monkeypatch):
    x = random(2, 8, 6, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    assert batch_norm.looped(x)
    assert not batch_norm.looped(x.float())
    assert not batch_norm.looped(x.contiguous())
    torch.set_num_threads(2)
    assert not batch_norm.looped(x)
    torch.set_num_threads(1)
    monkeypatch.setattr(batch_norm, "compiled", lambda name: None)
    assert not batch_norm.looped(x)
