"""The choice of blocks and networks to measure: those that tell most about the networks of a superspace."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from modules.latency.fitted.features import BLOCK_COLUMNS, block_features, block_kernels
from modules.modeling.complexity import Sized, blocks_of
from modules.modeling.net_spec import NetSpec, resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import Superspace, get_available_superspaces, get_superspace

# A guess of latency before anything is measured, to weigh blocks: ms per million multiply-accumulates, per million
# activations moved, per million weights, and per block, on a core of the 2020s. Only ratios matter.
_GUESS = {"macs": 1 / 60, "moved": 1.0, "weights": 0.1}
_GUESS_BLOCK = 0.02
_LOGARITHMIC = ("hw", "cin", "cout", "hidden", "macs", "moved")
_LINEAR = ("kernel", "stride")
_OTHER_TYPE = 6.0  # distance between blocks of two types, in standard deviations
_WEIGHT_POWER = 1 / 3  # power of a block's share of the latency, beside its distance to measured ones
_REPRESENTATIVE = 0.48  # share of the blocks that is drawn in proportion to their use
_FEW = 20  # different blocks; a type with fewer cannot spare one for validation


@dataclass(frozen=True)
class Net:
    """A subnet of a search space."""

    space: SupernetConfig
    choice: SubnetChoiceConfig

    @property
    def spec(self) -> NetSpec:
        """Its structure."""
        return resolve(self.space, self.choice)

    def __str__(self) -> str:
        return f"{self.space} {self.choice}"

    @staticmethod
    def from_str(text: str) -> Net:
        """The inverse of `str`."""
        space, _, choice = text.partition(" ")
        return Net(SupernetConfig.from_str(space), SubnetChoiceConfig.from_str(choice))


class _Tilted:
    """A random generator that prefers small or large options: positions are Beta(2**(2 tilt), 2**(-2 tilt))."""

    def __init__(self, rng: np.random.Generator, tilt: float):
        self.rng, self.a, self.b = rng, 4.0**tilt, 4.0**-tilt

    def integers(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        return min(count - 1, int(count * self.rng.beta(self.a, self.b)))


def draw_nets(superspace: Superspace, resolutions: Sequence[int], count: int, rng: np.random.Generator) -> list[Net]:
    """`count` different random subnets of random search spaces, of all sizes.

    Half of them draw options uniformly. Each of the others prefers small or large options, to its own degree: uniform
    draws hardly ever come near the smallest and largest networks.
    """
    nets: dict[Net, None] = {}
    for attempt in range(100 * count):
        if len(nets) == count:
            break
        source = _Tilted(rng, rng.uniform(-1, 1)) if attempt % 2 else rng
        blocks = tuple(int(rng.integers(len(superspace.candidates))) for _ in superspace.searched)
        windows = tuple(int(source.integers(stage.num_windows)) for stage in superspace.searched)
        space = SupernetConfig(superspace.name, blocks, windows)
        nets[Net(space, SubnetSpace(space, tuple(resolutions)).sample(source))] = None
    return list(nets)


def superspace_of(spec: NetSpec) -> str:
    """Name of the superspace that a network was taken from, or of one that has it at any resolution and number of
    classes; "" if none has."""
    if spec.superspace in get_available_superspaces():
        return spec.superspace
    return next((name for name in get_available_superspaces() if _belongs(spec, get_superspace(name))), "")


def _belongs(spec: NetSpec, superspace: Superspace) -> bool:
    if [name for name, _ in spec.stages] != [stage.name for stage in superspace.stages]:
        return False
    for stage, (name, blocks) in zip(superspace.stages, spec.stages, strict=True):
        fixed = superspace.fixed.get(name)
        kinds = {c.block for c in ((fixed,) if fixed else superspace.candidates)}
        widths = {block.args.cout for block in blocks}
        if (len(blocks) not in stage.depths or {block.args.kind for block in blocks} - kinds
                or (name != "logits" and widths - set(stage.widths))):
            return False
    return True


def choose_blocks(nets: Sequence[Net], count: int, rng: np.random.Generator) -> tuple[list[Sized], list[Sized]]:
    """`count` of the blocks of `nets`, in two parts: some spread out, some representative.

    The representative ones are drawn in proportion to their use in networks: errors on them are the expected errors.
    The others begin with the most used block of each type. Then comes, again and again, the block that is farthest from
    all chosen ones. Distance is measured in the logarithms of sizes and work, in standard deviations; it counts more
    for blocks with a large share of the networks' latency.

    Returns:
        Both parts, blocks with their input sizes; fewer than `count` if there are no more.
    """
    uses = Counter(block for net in nets for block in blocks_of(net.spec))
    pool = list(uses)
    often = np.array([uses[block] for block in pool], dtype=float)
    of_type = Counter(block.kind for block, _ in pool)
    spare = often * [of_type[block.kind] >= _FEW for block, _ in pool]
    drawn = min(int(count * _REPRESENTATIVE), np.count_nonzero(spare) // 2)
    representative = rng.choice(len(pool), drawn, replace=False, p=spare / spare.sum()) if drawn else np.zeros(0, int)
    places, guess = _places(pool)
    weights = (often * guess) ** _WEIGHT_POWER
    types = {block.kind for block, _ in pool}
    first = [max((i for i in range(len(pool)) if pool[i][0].kind == kind), key=lambda i: often[i]) for kind in types]
    first = sorted({*first, *representative.tolist()}, key=lambda i: (i in representative, i))
    chosen = _spread_out(places, weights, first, count)
    return [pool[i] for i in chosen if i not in representative], [pool[i] for i in representative]


def choose_nets(nets: Sequence[Net], ms: np.ndarray, count: int, rng: np.random.Generator) -> list[Net]:
    """`count` of `nets`, or all if there are fewer, evenly spread over the logarithms of their latencies `ms` from the
    smallest to the largest."""
    log, free = np.log(ms), np.ones(len(nets), bool)
    edges = np.linspace(log.min(), log.max(), min(count, len(nets)) + 1)
    chosen = []
    for low, high in pairwise(edges):
        middle = rng.uniform(low, high)
        distance = np.where(free, np.abs(log - middle), np.inf)
        chosen.append(int(np.argmin(distance)))
        free[chosen[-1]] = False
    return [nets[i] for i in chosen]


def _places(blocks: Sequence[Sized]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of blocks, (blocks, dimensions), and a guess of their latencies, (blocks,)."""
    args, hws = [block for block, _ in blocks], [hw for _, hw in blocks]
    features = dict(zip(BLOCK_COLUMNS, block_features(args, hws, block_kernels(args, hws)).T, strict=False))
    columns = [np.log(features[name] + 1e-6) for name in _LOGARITHMIC] + [features[name] for name in _LINEAR]
    places = np.stack(columns, 1)
    places /= np.maximum(places.std(0), 1e-6)
    types = sorted({block.kind for block in args})
    one_hot = np.array([[block.kind == kind for kind in types] for block in args], dtype=float)
    guess = _GUESS_BLOCK + sum(features[name] * price for name, price in _GUESS.items())
    return np.concatenate([places, one_hot * _OTHER_TYPE / np.sqrt(2)], 1), guess


def _spread_out(places: np.ndarray, weights: np.ndarray, first: list[int], count: int) -> list[int]:
    distance, chosen = np.full(len(places), np.inf), []
    for turn in range(min(count, len(places))):
        chosen.append(first[turn] if turn < len(first) else int(np.argmax(distance * weights)))
        distance = np.minimum(distance, np.sqrt(((places - places[chosen[-1]]) ** 2).sum(1)))
        distance[chosen] = -1
    return chosen
