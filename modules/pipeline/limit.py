"""The latency limit: the requested one, if it can be kept, or a median one."""
from __future__ import annotations

import numpy as np

from modules.block_kd.space_search.spaces import Spaces
from modules.latency import get_platform
from modules.modeling.net_spec import resolve
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
    fastest = min(predictor.predict_subnet(resolve(space, SubnetSpace(space, (resolution,)).extreme(min), classes))
                  for space in spaces.seeds() if not any(space.windows))
    if fastest > limit:
        raise UserError(f"--latency_constraint {limit:g} ms: the smallest networks of {spaces.superspace} take "
                        f"{fastest:.2g} ms on {platform} at {resolution} pixels; allowed: more than that, or "
                        "smaller --resolutions")
    return limit


def rank_within(limit: float, ms: float, value: float) -> tuple[bool, float]:
    """A sort key, best first: networks whose latency `ms` is at most `limit` by `value`, the higher the better; then
    the others, the fastest first."""
    return (True, ms) if ms > limit else (False, -value)
