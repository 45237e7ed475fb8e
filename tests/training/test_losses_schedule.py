"""Losses and learning rate against the published golden values, closed forms and float64 references."""
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.training.losses import adaptive_divergence, noise_to_signal, smoothed_cross_entropy
from modules.training.schedule import resolution_limit, warmup_cosine_lr


@pytest.fixture
def golden(shared_json):
    return shared_json("facts", "golden_units.json")


def test_losses_equal_the_golden_values(golden):
    logits = torch.tensor(golden["logits"], requires_grad=True)
    loss = adaptive_divergence(logits, torch.tensor(golden["teacher"]))
    loss.backward()
    assert loss.item() == pytest.approx(golden["adaptive_soft(-1,1,5)"], rel=1e-6)
    np.testing.assert_allclose(logits.grad, golden["adaptive_soft grad"], atol=1e-7)
    cross_entropy = smoothed_cross_entropy(logits, torch.tensor([3, 7]), 0.1)
    assert cross_entropy.item() == pytest.approx(golden["ce_smooth_0.1(targets 3,7)"], rel=1e-6)


def test_schedule_equals_the_golden_values(golden):
    rates = golden["warmup_cosine base 0.4 max_iters 1000 warmup 50 factor .001"]
    assert len(rates) >= 9
    for iteration, rate in rates.items():
        ours = warmup_cosine_lr(int(iteration), base_lr=0.4, iterations=1000, warmup_iterations=50)
        assert ours == pytest.approx(rate, rel=1e-9)


def test_schedule_floor():
    assert warmup_cosine_lr(99, base_lr=1, iterations=100, warmup_iterations=0, clamp_lr_percent=0.1) == 0.1


@pytest.mark.parametrize("alpha", [-1.0, -0.5, 0.5, 2.0, 0.0, 1.0])
def test_surrogate_has_the_gradient_of_the_divergence(alpha):
    # One alpha on both sides and no clipping: the gradient must be that of the alpha-divergence itself, by autograd
    # in float64 on its definition sum q f(p/q).
    torch.manual_seed(0)
    logits = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, 7, dtype=torch.float64)
    adaptive_divergence(logits, target, alpha, alpha, clip=1e30).backward()
    ours, logits.grad = logits.grad, None
    p, q = F.softmax(target, 1), F.softmax(logits, 1)
    r = p / q
    if alpha == 0:
        f = -r.log()
    elif alpha == 1:
        f = r * r.log()
    else:
        f = (r**alpha - 1) / (alpha * (alpha - 1))
    (q * f).sum(1).mean().backward()
    torch.testing.assert_close(ours, logits.grad, rtol=1e-9, atol=1e-12)


def test_the_larger_divergence_decides_per_sample():
    torch.manual_seed(1)
    logits, target = 3 * torch.randn(50, 10), 3 * torch.randn(50, 10)
    both = torch.stack([adaptive_divergence(logits[i:i + 1], target[i:i + 1]) for i in range(50)])
    sides = torch.stack([torch.stack([adaptive_divergence(logits[i:i + 1], target[i:i + 1], a, a) for i in range(50)])
                         for a in (-1, 1)])
    assert ((both == sides[0]) | (both == sides[1])).all()
    assert (both == sides[0]).any()
    assert (both == sides[1]).any()
    assert adaptive_divergence(logits, target).item() == pytest.approx(both.mean().item(), rel=1e-5)


def test_noise_to_signal_divides_by_the_variance_of_the_target():
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5)) * np.arange(1, 4)[:, None, None]
    target[0, 0] = 1.5  # a constant channel: only eps is left of its variance
    output[0, 0] = 1.5 + 1e-6
    expected = np.mean([((output[n, c] - target[n, c]) ** 2).mean() / (target[n, c].var(ddof=1) + 1e-8)
                        for n in range(2) for c in range(3)])
    output, target = torch.tensor(output, requires_grad=True), torch.tensor(target)
    assert noise_to_signal(output, target).item() == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: noise_to_signal(x, target, 1e-2), output)


@pytest.mark.parametrize(("limits", "iterations"), [((16, 24), 90), ((16, 20, 24), 10), ((), 5), ((24,), 1)])
def test_resolution_limits_have_equal_parts_and_the_last_has_none(limits, iterations):
    drawn = [resolution_limit(i, iterations=iterations, limits=limits) for i in range(iterations)]
    parts = [list(part) for _, part in itertools.groupby(drawn)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [part[0] for part in parts] == [*limits, None][:len(parts)]
