"""Training speed of this machine: short measurements that divide the budget."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from modules.block_kd.space_search.spaces import Spaces
from modules.block_kd.teacher.build import build_teacher, enlargement
from modules.modeling.network import resize
from modules.modeling.supernet import Supernet
from modules.pipeline.rival import Network
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import Superspace, get_superspace
from modules.training.config import TrainConfig, load_yaml
from modules.training.optimizer import build_optimizer
from modules.training.precision import computes_bf16
from modules.training.sandwich import sandwich_step, subnet_step
from modules.utils.dist import init_distributed
from modules.utils.files import REPOSITORY

BATCH = 64  # images of a step
CONFIG = "supernet_training_configs/pipeline.yaml"  # of all trainings
RATE = 1e-3  # of the measured steps, whose weights nobody keeps


@dataclass(frozen=True)
class Speed:
    """Seconds of one fp32 step of 64 images, with that of the optimiser.

    Args:
        sandwich: the sandwich step of a supernet.
        single: the same on one thread.
        teacher: a training step of the teacher; 0 if it is not trained.
        threads: of the CPU, for both measurements and all steps.
        start: seconds until a script has loaded its libraries.
        amp: number format in which a sandwich step is fastest; "none" for fp32.
        gain: how many times as fast as in fp32 it is then.
    """

    sandwich: float
    single: float
    teacher: float
    threads: int = 1
    start: float = 0.0
    amp: str = "none"
    gain: float = 1.0


def mixture(spaces: Spaces) -> SupernetConfig:
    """A space of all block types by turns, in the middle width windows: it stands for one that is not found yet."""
    stages, blocks = spaces.space.searched, spaces.blocks
    return SupernetConfig(spaces.superspace, tuple(blocks[i % len(blocks)] for i in range(len(stages))),
                          tuple(stage.num_windows // 2 for stage in stages))


def measure_speed(space: SupernetConfig, resolution: int, classes: int, teacher: str = "", threads: int = 0) -> Speed:
    """Speed at `resolution` (pixels) on the device of training; `teacher` is an architecture, "" for none.

    On a CPU, `threads` or `OMP_NUM_THREADS` gives the number of threads. Without it, one thread and all cores are
    tried: if other programs keep the cores busy, one thread is faster. bf16 is tried where the device has kernels for
    it.
    """
    device = init_distributed()
    images = torch.randn(BATCH, 3, resolution, resolution, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    before, sandwich = torch.get_num_threads(), {}
    numbers = [threads] if threads else _numbers_of_threads(device)
    formats = _formats(device)
    for number in {*numbers, 1}:
        torch.set_num_threads(number)
        for amp in formats:
            sandwich[amp, number] = _sandwich_seconds(space, resolution, classes, images, labels, amp)
    amp, threads = min(((amp, number) for amp in formats for number in numbers), key=sandwich.get)
    torch.set_num_threads(threads)
    taught = _teacher_seconds(teacher, classes, get_superspace(space.superspace), images, labels) if teacher else 0.0
    plain = sandwich["none", threads]
    speed = Speed(plain, sandwich["none", 1], taught, threads, _start_seconds(), amp, plain / sandwich[amp, threads])
    torch.set_num_threads(before)
    return speed


def step_seconds(network: Network, classes: int, threads: int) -> tuple[float, str]:
    """Seconds of one step of 64 images of `network` alone, on `threads` threads of a CPU, in the faster number format,
    and that format: "none" for fp32, or "bf16"."""
    space, subnet = network
    device, before = init_distributed(), torch.get_num_threads()
    torch.set_num_threads(threads)
    net = Supernet(space, classes, (subnet.resolution,)).to(device)
    net.set_active_subnet(subnet)
    images = torch.randn(BATCH, 3, subnet.resolution, subnet.resolution, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    seconds = {amp: _seconds(_training_step(net, subnet_step, images, labels, amp)) for amp in _formats(device)}
    torch.set_num_threads(before)
    return min((seconds, amp) for amp, seconds in seconds.items())


def _training_step(net: Supernet, step: Callable, images: torch.Tensor, labels: torch.Tensor, amp: str
                   ) -> Callable[[], None]:
    """A function that trains `net` for one `step` of the recipe, as the trainings do: Muon takes a quarter of the time
    of a fast step in bf16."""
    config = TrainConfig(**load_yaml(REPOSITORY / CONFIG) | {"amp": amp})
    form = torch.channels_last if config.channels_last else torch.contiguous_format
    net, images, rng = net.to(memory_format=form), images.contiguous(memory_format=form), np.random.default_rng(0)
    optimizer = build_optimizer(net, config)
    for group in optimizer.param_groups:
        group["lr"] = RATE

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        step(net, images, labels, config, rng)
        optimizer.step()
    return train


def _formats(device: torch.device) -> list[str]:
    return ["none", "bf16"] if computes_bf16(device) else ["none"]


def _numbers_of_threads(device: torch.device) -> list[int]:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() or device.type != "cpu":
        return [max(int(asked), 1) if asked.isdecimal() else 1]
    return sorted({1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1})


def _sandwich_seconds(space: SupernetConfig, resolution: int, classes: int, images: torch.Tensor, labels: torch.Tensor,
                      amp: str) -> float:
    net = Supernet(space, classes, (resolution,)).to(images.device)
    return _seconds(_training_step(net, sandwich_step, images, labels, amp))


def _teacher_seconds(arch: str, classes: int, superspace: Superspace, images: torch.Tensor, labels: torch.Tensor
                     ) -> float:
    images = resize(images, images.shape[-1] * enlargement(arch, superspace))
    net = build_teacher(arch, classes).to(images.device)
    return _seconds(lambda: torch.nn.functional.cross_entropy(net(images), labels).backward())


def _start_seconds() -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import modules.training.trainer"], cwd=REPOSITORY, check=True)
    return time.monotonic() - start


def _seconds(step: Callable[[], object]) -> float:
    """The median time of three runs, after a first one that does not count."""
    times = []
    for _ in range(4):
        start = time.monotonic()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return float(np.median(times[1:]))
