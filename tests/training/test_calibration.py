"""Batch-norm calibration and accuracy against direct computation."""
import pytest
import torch
from torch import nn

from modules.training.calibration import calibrate_bn
from modules.training.evaluation import evaluate, wilson_interval
from modules.utils.errors import UserError


def test_statistics_are_those_of_all_images_whatever_the_batches():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[1].num_batches_tracked.fill_(7)
    images = torch.randn(37, 3, 9, 9) * 3 + 1
    calibrate_bn(net, [images[:10], images[10:30], images[30:]])
    out = net[0](images).detach()
    torch.testing.assert_close(net[1].running_mean, out.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].running_var, out.var((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert net[1].momentum == 0.1
    assert net[1].num_batches_tracked == 7
    assert net.training


def test_only_norms_are_in_training_mode_meanwhile():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.9)).eval()
    seen = []
    net[2].register_forward_hook(lambda module, inputs, output: seen.append(torch.equal(inputs[0], output)))
    calibrate_bn(net, [torch.randn(4, 3, 5, 5)])
    assert seen == [True]
    assert not net.training


def test_no_images_is_an_error_that_keeps_the_statistics():
    net = nn.Sequential(nn.BatchNorm2d(2))
    with pytest.raises(UserError, match="no images"):
        calibrate_bn(net, [])
    assert net[0].running_var.tolist() == [1, 1]
    assert net[0].momentum == 0.1


def test_accuracy_counts_every_image_once():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.arange(8.0))

        def forward(self, x):
            return self.bias.expand(len(x), 8)  # always predicts 7; top five are 7 6 5 4 3

    labels = torch.tensor([7, 7, 3, 2, 0, 7, 1])
    accuracy = evaluate(Constant(), [(torch.zeros(4, 1), labels[:4]), (torch.zeros(3, 1), labels[4:])])
    assert accuracy.images == 7
    assert accuracy.top1 == pytest.approx(300 / 7)
    assert accuracy.top5 == pytest.approx(400 / 7)
    with pytest.raises(UserError, match="empty"):
        evaluate(Constant(), [])


def test_wilson_interval_solves_its_equation():
    # Its ends are the shares p with |observed - p| = z sqrt(p (1-p) / n).
    for share, count in ((0.5, 10), (0.97, 355), (0.0, 20), (1.0, 20)):
        low, high = (v / 100 for v in wilson_interval(share, count))
        for p in (low, high):
            assert (share - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / count, abs=1e-12)
        assert low <= share <= high


def test_wilson_interval_holds_the_share_at_both_ends():
    for count in range(1, 3000):
        for right in (0, count):
            low, high = wilson_interval(right / count, count)
            assert 0 <= low <= 100 * right / count <= high <= 100, count
