"""The number format of a training step, bf16 or fp32: as requested, or as a short measurement decides."""
from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from modules.runtime.torch_timer import now
from modules.training.config import TrainConfig

_ROUNDS = 3


def autocast(amp: str, device_type: str):
    """The context of the forward passes of a step. LSQ+ keeps scales, offsets and their gradients in fp32."""
    return torch.autocast(device_type, torch.bfloat16) if amp == "bf16" else contextlib.nullcontext()


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` has kernels for bf16: a GPU from Ampere on, a CPU with AVX512 or with ARM's bf16. Others are
    many times slower in bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def measure_amp(model: torch.nn.Module, step: Callable, batch: tuple, config: TrainConfig,
                generator: Callable) -> dict[str, float]:
    """Seconds of one `step(model, batch, config, generator())` in fp32 and in bf16, by amp: medians of three in turns,
    after one of each. `batch` begins with the images. The steps run on a copy of `model`: its statistics and quantisers
    do not change."""
    model, seconds = copy.deepcopy(model), {"none": [], "bf16": []}
    for turn in range(_ROUNDS + 1):
        for amp, times in seconds.items():
            start = now(batch[0].device)
            step(model, batch, replace(config, amp=amp), generator())
            if turn:
                times.append(now(batch[0].device) - start)
    return {amp: median(times) for amp, times in seconds.items()}
