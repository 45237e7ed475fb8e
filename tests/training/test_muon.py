"""Muon against its definition by singular values in float64, and against torch's SGD."""
import copy

import numpy as np
import pytest
import torch
from torch import nn

from modules.search_space.config import SupernetConfig
from modules.training.config import TrainConfig
from modules.training.optimizer import build_optimizer
from modules.training.recipe.muon import Muon, orthogonal
from modules.training.trainer import SupernetTrainer
from modules.utils.checkpoint import load_checkpoint
from modules.utils.errors import UserError

SPACE = "onnxw_tiny-000000-000000"
CONFIG = TrainConfig(optimizer="muon", base_lr=0.5, momentum=0.8, weight_decay_weight=0.01)


def by_singular_values(direction: torch.Tensor) -> np.ndarray:
    """Five rounds of 3.4445 s - 4.7750 s^3 + 2.0315 s^5 on the singular values, which begin with a norm of 1."""
    left, values, right = np.linalg.svd(direction.double().flatten(1).numpy(), full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return ((left * values) @ right).reshape(direction.shape)


def turned(direction: torch.Tensor) -> torch.Tensor:
    """A kernel as `orthogonal` makes it, beside another one."""
    other = torch.randn(direction.shape)
    return orthogonal(torch.stack((other.flatten(1), direction.flatten(1))))[1].reshape(direction.shape)


@pytest.mark.parametrize("shape", [(128, 80, 3, 3), (80, 16, 1, 1), (16, 3, 3, 3), (4, 4, 1, 1)])
def test_orthogonal_treats_singular_values_alone(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator).flatten(1) * torch.logspace(0, -2, shape[0])[:, None]
    direction = matrix.reshape(shape).to(memory_format=torch.channels_last)
    found = turned(direction)
    assert np.allclose(found.numpy(), by_singular_values(direction), atol=2e-5)
    assert np.allclose(turned(1e6 * direction).numpy(), found.numpy(), atol=1e-5)  # its size does not count


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8),
                         nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    return ours, copy.deepcopy(ours)


def give_gradients(networks, seed: int) -> None:
    for network in networks:
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_kernels_turn_and_all_else_has_sgd():
    ours, theirs = networks()
    optimizer = build_optimizer(ours, CONFIG)
    decaying = [theirs[2].weight, theirs[5].weight]
    others = [*theirs[1].parameters(), theirs[2].bias, theirs[3].bias, theirs[5].bias]
    sgd = torch.optim.SGD([{"params": decaying, "weight_decay": 0.01}, {"params": others}], lr=0.5, momentum=0.8,
                          nesterov=True)
    kernels = {"0.weight": ours[0].weight, "3.weight": ours[3].weight}
    mean = {name: np.zeros(kernel.shape) for name, kernel in kernels.items()}
    optimizer.param_groups[-1]["lr"] = 0.1
    for step in range(3):
        give_gradients((ours, theirs), step)
        expected = {}
        for name, kernel in kernels.items():
            old, gradient = kernel.detach().double().numpy(), kernel.grad.double().numpy()
            mean[name] = 0.8 * mean[name] + gradient
            turn = by_singular_values(torch.from_numpy(gradient + 0.8 * mean[name]))
            new = old - 0.1 * np.linalg.norm(old) * turn / np.linalg.norm(turn)
            expected[name] = new * np.linalg.norm(old) / np.linalg.norm(new)
        optimizer.step()
        sgd.step()
        for name, kernel in kernels.items():
            assert np.allclose(kernel.detach().numpy(), expected[name], atol=1e-5)
        for (name, ours_now), theirs_now in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert name in kernels or torch.equal(ours_now, theirs_now)


def test_a_closure_sees_the_kernels():
    ours, theirs = networks()
    first, second = build_optimizer(ours, CONFIG), build_optimizer(theirs, CONFIG)
    images = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    ours.eval()
    theirs.eval()

    def loss_of(network):
        network.zero_grad()
        loss = network[:2](images).square().sum()
        loss.backward()
        return loss

    expected = loss_of(theirs)
    second.step()
    assert first.step(lambda: loss_of(ours)) == expected > 0
    assert torch.equal(ours[0].weight, theirs[0].weight)


def test_saved_and_loaded_it_goes_on_alike():
    ours, theirs = networks()
    first = build_optimizer(ours, CONFIG)
    give_gradients((ours,), 0)
    first.step()
    theirs.load_state_dict(ours.state_dict())
    second = build_optimizer(theirs, CONFIG)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    give_gradients((ours, theirs), 1)
    first.step()
    second.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_training_turns_kernels_by_its_share_and_keeps_their_norms(tmp_path):
    """Four steps of four: 1, 3/4, 1/2 and 1/4 of the largest one, 0.1 over the root of 4, bound the angle."""
    config = TrainConfig(optimizer="muon", muon_turn=0.1, schedule="linear", warmup_epochs=0, epochs=2, debug_batches=2,
                         dataset="digits", resolutions=(32,), batch_size_per_gpu=16, data_loader_workers_per_gpu=0,
                         valid_batches=1, post_bn_calibration_batch_num=1, models_save_dir=str(tmp_path))
    start = SupernetTrainer(config, SupernetConfig.from_str(SPACE))
    with start.files:
        start.start()
    before = {name: kernel.detach().clone() for name, kernel in start.model.named_parameters() if kernel.ndim == 4}
    SupernetTrainer(config, SupernetConfig.from_str(SPACE), overwrite=True).run()
    after = load_checkpoint(start.path)["state_dict"]
    largest = 0.0
    for name, old in before.items():
        if old.shape[1] == 1:  # depthwise
            continue
        new = after[name]
        assert new.norm().item() == pytest.approx(old.norm().item(), rel=1e-5)
        cosine = (new.double() * old.double()).sum() / (new.double().norm() * old.double().norm())
        largest = max(largest, torch.arccos(cosine).item())
    assert 0.04 < largest <= 0.05 * (1 + 0.75 + 0.5 + 0.25)


@pytest.mark.parametrize("quant_epochs", [1, 4])
def test_the_step_of_int8_is_a_share_of_that_of_fp32(quant_epochs):
    """Both have 10 steps an epoch: 16 epochs with 160 steps in fp32, and the largest step 1 / sqrt(160)."""
    config = TrainConfig(optimizer="muon", muon_turn=1.0, epochs=16, quant_epochs=quant_epochs)
    largest = config.for_quantization().muon_turn / (10 * quant_epochs) ** 0.5
    assert largest == pytest.approx(0.1 / 160 ** 0.5)


def test_kernels_without_a_gradient_or_of_zeros_stay():
    ours, theirs = networks()
    with torch.no_grad():
        ours[3].weight.zero_()
    give_gradients((ours,), 0)
    ours[0].weight.grad = None
    build_optimizer(ours, CONFIG).step()
    assert torch.equal(ours[0].weight, theirs[0].weight)
    assert torch.equal(ours[3].weight, torch.zeros_like(ours[3].weight))


def test_without_momentum_is_refused():
    with pytest.raises(UserError, match="--momentum 0 with --optimizer muon"):
        TrainConfig(optimizer="muon", momentum=0.0)


def test_projections_for_a_teacher_are_not_turned():
    """They start near 0 and have to grow, which a turned kernel cannot."""
    network, projections = networks()[0], nn.ModuleList([nn.Conv2d(4, 6, 1)])
    optimizer = build_optimizer(nn.ModuleList([network, projections]), CONFIG, network)
    assert [len(kernel) for kernel in optimizer.param_groups[-1]["params"]] == [8, 4]
    nn.init.normal_(projections[0].weight, 0, 1e-4)
    before = projections[0].weight.norm().item()
    give_gradients((network, projections), 0)
    optimizer.step()
    assert projections[0].weight.norm().item() > 100 * before


def test_a_subnet_alone_turns_by_its_own_slice():
    torch.manual_seed(0)
    whole = nn.Conv2d(6, 8, 5, bias=False)
    with torch.no_grad():
        alone = whole.weight[:4, :3, 1:4, 1:4].clone().requires_grad_()
    rest = whole.weight.detach().clone()
    gradient = torch.randn(4, 3, 3, 3)
    gradient[1, 2, 0, 0] = 0  # by chance: its row and its column have others
    alone.grad, whole.weight.grad = gradient, torch.zeros_like(whole.weight)
    whole.weight.grad[:4, :3, 1:4, 1:4] = gradient
    for kernel in (alone, whole.weight):
        Muon([{"params": [kernel], "turned": True}], lr=0.1, momentum=0.9).step()
    assert torch.allclose(whole.weight[:4, :3, 1:4, 1:4], alone, atol=1e-6)
    whole.weight.data[:4, :3, 1:4, 1:4] = rest[:4, :3, 1:4, 1:4]
    assert torch.equal(whole.weight, rest)
