"""Scores of a network, which is built, scored by a proxy and dropped. The same seed gives the same score."""
from __future__ import annotations

import math
import zlib

import torch

from modules.modeling.net_spec import NetSpec
from modules.modeling.network import QNetwork
from modules.utils.errors import UserError
from modules.zero_shot import baselines, entropy, zico  # noqa: F401  they register their scores
from modules.zero_shot.proxies import NEEDS_NEW_NETWORK, SpecScore, check_proxy, get_proxy

__all__ = ["check_proxy", "scores", "seed_of"]


def scores(spec: NetSpec, proxy: str, batch: int, repeat: int, seed: int,
           device: str = "cpu") -> list[float]:
    """`repeat` scores (repeat,), such as (32,), of one network of `spec`; each draws its own weights. -inf stands for
    nan.

    Args:
        spec: the structure for the proxy (`plain_view`).
        proxy: one of `get_available_proxies()`.
        batch: images per batch, at least two.
        seed: of weights and inputs.
        device: where the network computes, such as "cuda".

    Raises:
        UserError: a batch below 2, an unknown score.
    """
    if batch < 2:
        raise UserError(f"batch size {batch} (--batch_size); allowed: 2 or more, for batch norm and for comparing")
    score, generator = get_proxy(proxy), torch.Generator().manual_seed(seed)
    if isinstance(score, SpecScore):
        return [float(score.compute(spec))] * repeat
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, values = None, []
        for _ in range(repeat):
            if net is None or score in NEEDS_NEW_NETWORK:
                net = QNetwork(spec).to(device)
            values.append(score(net, batch, generator))
    return [value if math.isfinite(value) else -math.inf for value in values]


def seed_of(text: str, seed: int) -> int:
    """The seed for the score of `text` in a run with `seed`."""
    return zlib.crc32(f"{seed} {text}".encode())
