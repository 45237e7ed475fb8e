"""What a profile is to measure and how: decided once, kept in `plan.json`, so that a resumed run measures the same."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from modules.latency.keys import block_key, parse_key
from modules.latency.profile.design import Net, choose_blocks, choose_nets, draw_nets
from modules.modeling.complexity import Sized
from modules.search_space import get_superspace
from modules.utils.errors import UserError
from modules.utils.files import atomic_write
from modules.utils.json_files import read_json

POOL = 600  # random networks whose blocks are the choice
FORM = {"settings": dict, "machine": dict, "spread_out": [str], "representative": [str], "correction_nets": [str],
        "test_nets": [str]}
CANDIDATES = 2000  # random networks that those measured as a whole are chosen from


@dataclass(frozen=True)
class Settings:
    """What a profile depends on. Counts are of configurations: blocks, networks to correct sums of blocks with, and
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


@dataclass(frozen=True)
class Plan:
    """What to measure on `machine` (what `Device.describe` says).

    The networks are only known once blocks were measured, because they are spread over predicted latencies.
    """

    settings: Settings
    machine: dict
    spread_out: tuple[Sized, ...]
    representative: tuple[Sized, ...]
    correction_nets: tuple[Net, ...] = ()
    test_nets: tuple[Net, ...] = ()

    @property
    def blocks(self) -> list[Sized]:
        """All blocks, in an order that mixes them, so that drift of the device falls on all kinds alike."""
        both = [*self.spread_out, *self.representative]
        return [both[i] for i in np.random.default_rng(self.settings.seed).permutation(len(both))]

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        content = {"settings": asdict(self.settings), "machine": self.machine,
                   "spread_out": [block_key(*block) for block in self.spread_out],
                   "representative": [block_key(*block) for block in self.representative],
                   "correction_nets": [str(net) for net in self.correction_nets],
                   "test_nets": [str(net) for net in self.test_nets]}
        with atomic_write(path) as file:
            json.dump(content, file, indent=0)

    @staticmethod
    def load(path: Path, settings: Settings, machine: dict) -> Plan:
        """Read what `save` wrote; UserError if it is damaged, or was made with other settings or on another machine."""
        content = read_json(path, "plan", FORM)
        kept = {**content["settings"], "machine": content["machine"]}
        try:
            blocks = (tuple(parse_key(key) for key in content[name]) for name in ("spread_out", "representative"))
            nets = (tuple(Net.from_str(text) for text in content[name]) for name in ("correction_nets", "test_nets"))
            plan = Plan(settings, machine, *blocks, *nets)
        except UserError as error:
            raise UserError(f"plan {str(path)!r}: {error}") from None
        for name, value in json.loads(json.dumps({**asdict(settings), "machine": machine})).items():
            if kept.get(name) != value:
                raise UserError(f"{str(path.parent)!r} was begun with {name} {kept.get(name)}, not {value}; "
                                "--overwrite begins anew")
        return plan


def make_plan(settings: Settings, machine: dict) -> Plan:
    """Choose the blocks; the networks follow with `add_nets`."""
    superspace, rng = get_superspace(settings.superspace), np.random.default_rng(settings.seed)
    pool = draw_nets(superspace, settings.resolutions, POOL, rng)
    return Plan(settings, machine, *map(tuple, choose_blocks(pool, settings.blocks, rng)))


def add_nets(plan: Plan, predict) -> Plan:
    """`plan` with its networks. `predict` gives the latencies (ms) of a list of `NetSpec`.

    Those to correct with and those to validate on come from different halves of the candidates, each spread from the
    smallest to the largest.
    """
    s = plan.settings
    rng = np.random.default_rng([s.seed, 1])
    candidates = draw_nets(get_superspace(s.superspace), s.resolutions, CANDIDATES, rng)
    ms = predict([net.spec for net in candidates])
    middle = len(candidates) // 2
    correction = choose_nets(candidates[:middle], ms[:middle], s.correction_nets, rng)
    test = choose_nets(candidates[middle:], ms[middle:], s.test_nets, rng)
    order = rng.permutation(len(correction))
    return replace(plan, correction_nets=tuple(correction[i] for i in order), test_nets=tuple(test))
