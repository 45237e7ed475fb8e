"""The plan of a profile's measurements, made once and kept in `plan.json`: a resumed run measures the same."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np

from modules.latency.keys import block_key, parse_key
from modules.latency.profile.design import Net, choose_blocks, choose_nets
from modules.latency.profile.zen_nets import draw_nets_of
from modules.modeling.complexity import Sized
from modules.runtime.devices import DeviceOptions
from modules.utils.errors import UserError
from modules.utils.runs import Run

POOL = 600  # random networks whose blocks are the candidates
FORM = {"settings": dict, "machine": dict, "spread_out": [str], "representative": [str], "correction_nets": [str],
        "test_nets": [str]}
FEWEST = {"blocks": 20, "correction_nets": 10, "test_nets": 3}  # for a fit, a correction, a validation
CANDIDATES = 2000  # random networks; some are chosen to be measured whole


@dataclass(frozen=True)
class Settings:
    """Settings of a profile. The counts are numbers of blocks, of networks to correct sums of blocks with, and of
    networks to validate on."""

    backend: str
    superspace: str
    resolutions: tuple[int, ...]
    device: str = "local"
    threads: int = 1
    batch: int = 1
    blocks: int = 500
    correction_nets: int = 60
    test_nets: int = 30
    seed: int = 0
    weight_bits: int = 8
    options: DeviceOptions = field(default_factory=DeviceOptions)


@dataclass(frozen=True)
class Plan:
    """The blocks and networks to measure on `machine` (from `Device.describe`).

    The networks follow after the blocks are measured: they are spread over predicted latencies.
    """

    settings: Settings
    machine: dict
    spread_out: tuple[Sized, ...]
    representative: tuple[Sized, ...]
    correction_nets: tuple[Net, ...] = ()
    test_nets: tuple[Net, ...] = ()

    @property
    def blocks(self) -> list[Sized]:
        """All blocks in a mixed order, so that drift of the device hits all kinds alike."""
        both = [*self.spread_out, *self.representative]
        return [both[i] for i in np.random.default_rng(self.settings.seed).permutation(len(both))]

    def save(self, run: Run) -> None:
        """Write it as the state of the profile `run`."""
        content = {"settings": asdict(self.settings), "machine": self.machine,
                   "spread_out": [block_key(*block) for block in self.spread_out],
                   "representative": [block_key(*block) for block in self.representative],
                   "correction_nets": [str(net) for net in self.correction_nets],
                   "test_nets": [str(net) for net in self.test_nets]}
        run.write_json(content)

    @staticmethod
    def load(run: Run, settings: Settings, machine: dict) -> Plan:
        """Read the plan that `save` wrote; UserError if it is damaged, or of other settings or another machine."""
        content = run.read_json(FORM)
        with run.reading():
            kept = {"weight_bits": 8, **content["settings"], "machine": content["machine"]}  # old ones lack them
            blocks = (tuple(parse_key(key) for key in content[name]) for name in ("spread_out", "representative"))
            nets = (tuple(Net.from_str(text) for text in content[name]) for name in ("correction_nets", "test_nets"))
            plan = Plan(settings, machine, *blocks, *nets)
        run.check_same(kept, {**asdict(settings), "machine": machine})
        return plan


def make_plan(settings: Settings, machine: dict) -> Plan:
    """Choose the blocks; the networks follow with `add_nets`. UserError for a superspace of too few networks, such as a
    fixed network."""
    rng = np.random.default_rng(settings.seed)
    pool = draw_nets_of(settings.superspace, settings.resolutions, POOL, rng)
    fewest, different = FEWEST["correction_nets"] + FEWEST["test_nets"], len({str(net) for net in pool})
    if different < fewest:
        raise UserError(f"superspace {settings.superspace!r} has {different} networks at these resolutions; a profile "
                        f"measures {fewest} at least")
    return Plan(settings, machine, *map(tuple, choose_blocks(pool, settings.blocks, rng)))


def add_nets(plan: Plan, predict) -> Plan:
    """`plan` with its networks. `predict` gives the latencies (ms) of a list of `NetSpec`.

    Networks to correct with and networks to validate on come from different halves of the candidates. Each group is
    spread from the smallest to the largest.
    """
    s = plan.settings
    rng = np.random.default_rng([s.seed, 1])
    candidates = draw_nets_of(s.superspace, s.resolutions, CANDIDATES, rng)
    ms = predict([net.spec for net in candidates])
    middle = len(candidates) // 2
    correction = choose_nets(candidates[:middle], ms[:middle], s.correction_nets, rng)
    test = choose_nets(candidates[middle:], ms[middle:], s.test_nets, rng)
    order = rng.permutation(len(correction))
    return replace(plan, correction_nets=tuple(correction[i] for i in order), test_nets=tuple(test))
