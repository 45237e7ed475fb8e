"""The network that a user would take instead: MobileNetV2, as wide as the limit allows."""
from __future__ import annotations

from collections.abc import Iterable

from modules.latency import get_platform
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_network

WIDTHS = (1.4, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15)
FORMS = ("mobilenet_v2", "mobilenet_v2_cifar")  # as published; with the first two strides 1, for small images


def find_rival(limit: float, platform: str, resolutions: Iterable[int],
               classes: int) -> tuple[SupernetConfig, SubnetChoiceConfig]:
    """The MobileNetV2 of most MACs, of either form and any of the widths and `resolutions` (pixels), whose latency on
    `platform` is at most `limit` (ms); the fastest one where none is."""
    networks = [find_network(f"{form}:{width}", resolution)
                for resolution in resolutions for form in FORMS for width in WIDTHS]
    specs = [resolve(*network, classes) for network in networks]
    latencies = get_platform(platform).predict_subnets(specs).ms
    _, best = max(((ms <= limit, count_net_flops_and_params(spec)[0] if ms <= limit else -ms), number)
                  for number, (spec, ms) in enumerate(zip(specs, latencies, strict=True)))
    return networks[best]
