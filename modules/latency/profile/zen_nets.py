"""Networks of Zen structures for a profile: `--superspace zen_cifar`, `zen_flops` or `zen_latency`."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from modules.latency.profile.design import Net, draw_nets
from modules.modeling.complexity import count_net_flops_and_params
from modules.search_space import get_superspace
from modules.search_space.networks import find_network
from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zen_space import SPACES, ZenSpace

PREFIX = "zen_"
MOST_MUTATIONS = 30
MOST_MACS = 1000.0  # in millions, of a network that is measured
_TRIES = 100  # draws for each network; then there are no more


def zen_space(name: str) -> ZenSpace | None:
    """The Zen space of a profile's superspace; None for any other."""
    return SPACES.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def resolutions_of(name: str) -> tuple[int, ...]:
    """The resolutions of a superspace or Zen space; UserError for another name."""
    space = zen_space(name)
    return (space.resolution,) if space else get_superspace(name).resolutions


def draw_nets_of(name: str, resolutions: Sequence[int], count: int, rng: np.random.Generator) -> list[Net]:
    """`count` different random networks of a superspace (`draw_nets`) or of a Zen space."""
    space = zen_space(name)
    if space is None:
        return draw_nets(get_superspace(name), resolutions, count, rng)
    nets: dict[Net, None] = {}
    for _ in range(_TRIES * count):
        if len(nets) == count:
            break
        net = _net(_structure(space, rng), int(resolutions[rng.integers(len(resolutions))]))
        if count_net_flops_and_params(net.spec)[0] <= MOST_MACS:
            nets[net] = None
    return list(nets)


def _structure(space: ZenSpace, rng: np.random.Generator) -> Structure:
    """A random structure or the space's start, after up to 30 mutations within the space's depth. Half of those with
    inverted units have squeeze-and-excitation."""
    structure = space.draw(rng) if rng.random() < 0.5 else Structure.parse(space.start)
    for _ in range(rng.integers(MOST_MUTATIONS + 1)):
        mutant = space.mutate(structure, rng)
        structure = mutant if mutant.num_layers <= space.max_layers else structure
    return replace(structure, use_se=space.frozen and bool(rng.integers(2)))


def _net(structure: Structure, resolution: int) -> Net:
    return Net(*find_network(str(structure), resolution))
