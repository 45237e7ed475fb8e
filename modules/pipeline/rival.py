"""The network that a user would take instead: MobileNetV2, as wide as the limit allows."""
from __future__ import annotations

from modules.latency import get_platform
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_network

WIDTHS = (1.4, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15)
FORMS = ("mobilenet_v2", "mobilenet_v2_cifar")  # as published; with the first two strides 1, for small images


def find_rival(limit: float, platform: str, resolution: int,
               classes: int) -> tuple[SupernetConfig, SubnetChoiceConfig] | None:
    """The MobileNetV2 of most MACs at `resolution` (pixels), of either form and any of the widths, whose latency on
    `platform` is at most `limit` (ms); None if there is none."""
    networks = [find_network(f"{form}:{width}", resolution) for form in FORMS for width in WIDTHS]
    specs = [resolve(*network, classes) for network in networks]
    within = [(count_net_flops_and_params(spec)[0], -number) for number, (spec, ms) in
              enumerate(zip(specs, get_platform(platform).predict_subnets(specs).ms, strict=True)) if ms <= limit]
    return networks[-max(within)[1]] if within else None
