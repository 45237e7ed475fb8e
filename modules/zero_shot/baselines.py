"""Baselines of every score: size, predicted latency, chance."""
from __future__ import annotations

import torch

from modules.latency import get_platform
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import NetSpec
from modules.modeling.network import QNetwork
from modules.zero_shot.proxies import SpecScore, register_proxy, register_proxy_source, register_spec_score

_LATENCY = "Latency:"


@register_spec_score("Flops")
def flops(spec: NetSpec) -> float:
    """Multiply-accumulates in millions."""
    return count_net_flops_and_params(spec)[0]


@register_spec_score("Params")
def params(spec: NetSpec) -> float:
    """Parameters in millions."""
    return count_net_flops_and_params(spec)[1]


@register_proxy("Random")
def random(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """A draw from N(0, 1): the baseline."""
    return torch.randn((), generator=generator).item()


def _latency(name: str) -> SpecScore | None:
    """The score `Latency:<platform>`: predicted ms, a measure of size like the two above."""
    if not name.startswith(_LATENCY):
        return None
    platform = get_platform(name.removeprefix(_LATENCY))
    return SpecScore(lambda spec: float(platform.predict_subnet(spec)))


register_proxy_source(_latency, form=f"{_LATENCY}PLATFORM")
