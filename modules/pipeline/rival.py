"""The network that a user would take instead: MobileNetV2, as wide as the limit allows."""
from __future__ import annotations

from modules.latency import get_platform
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_network

WIDTHS = (1.4, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15)
SMALL_IMAGES = 64  # pixels, up to which the form for small images is meant


def find_rival(limit: float, platform: str, resolution: int,
               classes: int) -> tuple[SupernetConfig, SubnetChoiceConfig] | None:
    """The widest MobileNetV2 at `resolution` (pixels) whose latency on `platform` is at most `limit` (ms); None if
    there is none."""
    name, predictor = "mobilenet_v2_cifar" if resolution <= SMALL_IMAGES else "mobilenet_v2", get_platform(platform)
    for width in WIDTHS:
        network = find_network(f"{name}:{width}", resolution)
        if predictor.predict_subnet(resolve(*network, classes)) <= limit:
            return network
    return None
