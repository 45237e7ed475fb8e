"""Two processes against one: synchronised batch norm, gradients, training under torchrun; the weight average."""
import os
import subprocess
import sys

import pytest
import torch
from processes import free_port
from torch import nn

from modules.modeling.ops.batch_norm import DynamicBatchNorm2d
from modules.modeling.ops.lsq_plus import set_quant_mode
from modules.modeling.supernet import Supernet
from modules.training.ema import WeightAverage
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint
from modules.utils.files import REPOSITORY

WORLD = 2
TRAIN = ["train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000", "--config-file",
         "supernet_training_configs/digits.yaml", "--resolutions", "32", "--batch_size_per_gpu", "16", "--epochs", "1",
         "--quant_epochs", "1", "--debug_batches", "3", "--valid_freq", "2", "--post_bn_calibration_batch_num", "2",
         "--sync_bn", "true", "--ema_decay", "0.9", "--dropout", "0"]


def images() -> torch.Tensor:
    return torch.randn(10, 6, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 30


def odd_images() -> torch.Tensor:
    """11,767 values a channel for each of two processes: bfloat16 has no such number."""
    return torch.randn(14, 6, 41, 41, generator=torch.Generator().manual_seed(2)) + 3


def norm(synchronized: bool) -> DynamicBatchNorm2d:
    module = DynamicBatchNorm2d(8)
    module.synchronized = synchronized
    generator = torch.Generator().manual_seed(1)
    module.weight.data.uniform_(0.5, 2, generator=generator)
    module.bias.data.uniform_(-1, 1, generator=generator)
    return module


def _loss(y: torch.Tensor) -> torch.Tensor:
    return (y.pow(3) * torch.linspace(-1, 1, y.shape[1]).view(-1, 1, 1)).sum()


def _worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_distributed()
    module, x = norm(True), images()[rank::WORLD].clone().requires_grad_(True)
    _loss(module(x)).backward()
    gradients = {"weight": module.weight.grad.clone(), "bias": module.bias.grad.clone()}
    dist.average_gradients(module.parameters())
    half = norm(True)
    half.momentum = 1.0
    y = half(odd_images()[rank * 7:rank * 7 + 7].bfloat16())
    assert y.dtype == torch.bfloat16
    torch.save({"x": x.grad, "mean": module.running_mean, "var": module.running_var, "local": gradients,
                "averaged": module.weight.grad, "half": half.running_mean}, f"{folder}/{rank}.pt")
    dist.close()
    os._exit(0)  # gloo's threads, if they outlive the group, would abort an interpreter that ends in the usual way


def test_synchronised_norm_equals_one_process_with_all_images(tmp_path):
    torch.multiprocessing.spawn(_worker, (free_port(), str(tmp_path)), WORLD)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    reference, x = nn.BatchNorm2d(6), images().requires_grad_(True)
    start = norm(False)
    reference.weight.data, reference.bias.data = start.weight.data[:6].clone(), start.bias.data[:6].clone()
    _loss(reference(x)).backward()
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part["x"], x.grad[rank::WORLD], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(part["mean"][:6], reference.running_mean)
        torch.testing.assert_close(part["var"][:6], reference.running_var, rtol=1e-4, atol=1e-5)
        assert part["mean"][6:].tolist() == [0, 0]
        torch.testing.assert_close(part["averaged"], sum(p["local"]["weight"] for p in parts) / WORLD)
    torch.testing.assert_close(parts[0]["half"][:6], odd_images().bfloat16().double().mean((0, 2, 3)).float(),
                               rtol=1e-4, atol=0)
    for name in ("weight", "bias"):
        total = sum(p["local"][name] for p in parts)[:6]
        torch.testing.assert_close(total, getattr(reference, name).grad, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "torch.distributed.launch"])
def test_training_under_a_launcher(launcher, tmp_path):
    for mode, name in ([], "checkpoint.pth"), (["--quant_mode"], "lsq.pth"):
        done = subprocess.run([sys.executable, "-m", launcher, "--nproc_per_node", str(WORLD), "--master_port",
                               str(free_port()), *TRAIN, *mode, "--models_save_dir", str(tmp_path)], cwd=REPOSITORY,
                              text=True, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        state = load_checkpoint(tmp_path / "onnxw_tiny-000000-000000-align0" / name)
        assert state["epoch"] == 1
        assert {"trained_state_dict", "average_updates"} <= set(state)
        assert all(torch.isfinite(v).all() for v in state["state_dict"].values() if v.is_floating_point())


def test_weight_average_is_the_weighted_sum_of_the_steps():
    model = nn.Linear(3, 1)
    average = WeightAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for t in range(12):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update()
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.model.weight, expected)
    assert not average.model.weight.requires_grad


def test_weight_average_takes_the_start_values_of_quantisers():
    model = set_quant_mode(Supernet.build_from_str("onnxw_tiny-000000", 10, (32,)))
    average = WeightAverage(model, 0.999)
    model(torch.randn(2, 3, 32, 32))
    average.update()
    ours, theirs = (m.stages["first_conv"].blocks[0].conv.conv for m in (average.model, model))
    assert ours.activation_scale.item() == pytest.approx(theirs.activation_scale.item(), rel=1e-6)
    assert ours._started == [True, True]
    assert ours.activation_scale.item() != 1
