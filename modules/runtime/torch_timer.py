"""Latency of a torch module, by the method of Zen-NAS."""
from __future__ import annotations

import time
from statistics import median

import torch

from modules.utils.files import machine

WARM_UP = 3


def seconds_per_image(net: torch.nn.Module, shape: tuple[int, ...], repeats: int, half: bool = False) -> float:
    """Seconds of a forward pass divided by the batch size: the median over `repeats` runs, after three others.

    Args:
        net: in eval mode; images are made on its device.
        shape: of the images, such as (64, 3, 224, 224).
        half: network and images in float16.
    """
    device = next(net.parameters()).device
    images = torch.randn(shape, device=device, dtype=torch.float16 if half else torch.float32)
    net = net.half() if half else net
    times = []
    with torch.no_grad():
        for _ in range(WARM_UP + repeats):
            start = now(device)
            net(images)
            times.append(now(device) - start)
    return median(times[WARM_UP:]) / shape[0]


def now(device: torch.device) -> float:
    """The time in seconds, after `device` has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def conditions() -> dict:
    """The machine, torch's version and the name of the first GPU, "" without one: for records of measurements."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return machine() | {"torch": torch.__version__, "gpu": gpu}
