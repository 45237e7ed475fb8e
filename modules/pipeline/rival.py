"""The network that a user would take instead: MobileNetV2, as wide as the limit allows."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

from modules.latency import get_platform
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.pipeline.limit import rank_within
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_network

Network = tuple[SupernetConfig, SubnetChoiceConfig]
WIDTHS = (1.4, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15)
SMALL = 64      # pixels; below them the first two strides are 1, as usual for small images
MEASURED = 8    # candidates
_DOUBT = 2      # times the limit: predictions may be that far above the measured latency


def rival_candidates(limit: float, platform: str, resolutions: Iterable[int], classes: int) -> list[Network]:
    """The MobileNetV2s to measure, of any of the widths and `resolutions` (pixels): those of most MACs that may be
    within `limit` (ms) although the prediction of `platform` is above it, and the fastest one."""
    networks = [find_network(f"mobilenet_v2{'_cifar' if resolution < SMALL else ''}:{width}", resolution)
                for resolution in resolutions for width in WIDTHS]
    specs = [resolve(*network, classes) for network in networks]
    latencies = get_platform(platform).predict_subnets(specs).ms
    order = sorted(range(len(networks)), key=lambda i: -count_net_flops_and_params(specs[i])[0])
    chosen = [i for i in order if latencies[i] <= _DOUBT * limit][:MEASURED - 1]
    fastest = min(order, key=lambda i: latencies[i])
    return [networks[i] for i in dict.fromkeys([*chosen, fastest])]


def choose_rival(latencies: Mapping[Network, float], limit: float, classes: int) -> Network:
    """The network of most MACs whose latency is at most `limit` (ms, as `latencies`); the fastest one where none is."""
    def rank(network: Network):
        return rank_within(limit, latencies[network], count_net_flops_and_params(resolve(*network, classes))[0])

    return min(latencies, key=rank)
