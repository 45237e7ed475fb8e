"""The latency limit: the requested one, if it can be kept, or a median one."""
from __future__ import annotations

import numpy as np

from modules.block_kd.space_search.spaces import Spaces
from modules.latency import get_platform
from modules.latency.platform import Platform
from modules.modeling.complexity import blocks_of
from modules.modeling.net_spec import NetSpec, resolve
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError


def choose_limit(limit: float, spaces: Spaces, resolutions: tuple[int, ...], platform: str, classes: int) -> float:
    """`limit` (ms) itself; for 0 the median latency of random subnets of random ones of `spaces`.

    Raises:
        UserError: the smallest subnets of all these block types are slower than `limit`.
    """
    predictor, resolution = get_platform(platform), max(resolutions)  # of the block tables
    if not limit:
        nets = spaces.random_nets(resolution, classes)
        return float(f"{np.median(predictor.predict_subnets(nets).ms):.2g}")
    fastest = float(predictor.predict_subnets(_smallest(spaces, resolution, predictor, classes)).ms.min())
    if fastest > limit:
        raise UserError(f"--latency_constraint {limit:g} ms: the smallest networks of {spaces.superspace} take "
                        f"{fastest:.2g} ms on {platform} at {resolution} pixels; allowed: more than that, or "
                        "smaller --resolutions")
    return limit


def _smallest(spaces: Spaces, resolution: int, predictor: Platform, classes: int) -> list[NetSpec]:
    """The smallest subnets of the spaces of one block type each, and of the space with each stage's fastest type."""
    uniform = [space for space in spaces.seeds() if not any(space.windows)]
    nets = [_smallest_subnet(space, resolution, classes) for space in uniform]
    stages = [_stage_latencies(net, predictor) for net in nets]
    names = [stage.name for stage in spaces.space.searched]
    types = tuple(spaces.blocks[min(range(len(nets)), key=lambda i: stages[i][name])] for name in names)
    return [*nets, _smallest_subnet(SupernetConfig(spaces.superspace, types, uniform[0].windows), resolution, classes)]


def _smallest_subnet(space: SupernetConfig, resolution: int, classes: int) -> NetSpec:
    return resolve(space, SubnetSpace(space, (resolution,)).extreme(min), classes)


def _stage_latencies(net: NetSpec, predictor: Platform) -> dict[str, float]:
    """Latency (ms) of each stage, as a sum of its blocks."""
    names = [name for name, blocks in net.stages for _ in blocks]
    total = dict.fromkeys(names, 0.0)
    for name, (block, hw) in zip(names, blocks_of(net), strict=True):
        total[name] += predictor.predict_block(block, hw)
    return total


def rank_within(limit: float, ms: float, value: float) -> tuple[bool, float]:
    """A sort key, best first: networks whose latency `ms` is at most `limit` by `value`, the higher the better; then
    the others, the fastest first."""
    return (True, ms) if ms > limit else (False, -value)
