"""The measurements of one profile. Each is kept as soon as it is made."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from tqdm import tqdm

from modules.latency.fitted.platform import ModelPlatform
from modules.latency.keys import block_key
from modules.latency.profile.design import Net
from modules.latency.profile.fit import Data, fit_blocks, fit_profile_platform
from modules.latency.profile.journal import Journal, Row
from modules.latency.profile.measure import measure, measure_together, open_reference
from modules.latency.profile.models import block_model, file_form, net_model
from modules.latency.profile.plan import FEWEST, Plan, Settings, add_nets, make_plan
from modules.runtime.device import Device
from modules.utils.notes import say
from modules.utils.runs import Run

BLOCK_SHARE, CORRECTION_SHARE = 0.5, 0.75  # of the time limit: blocks, and blocks with the networks to correct with
TEST_SECONDS = 20  # of each of the two passes over the test networks


class Session:
    """Measures the plan, the state of `run`, on `device`, and makes a platform of the run's folder."""

    def __init__(self, run: Run, settings: Settings, device: Device, minutes: float, memory: bool = False):
        self.opened, self.settings, self.device = run, settings, device
        self.folder, self.seconds, self.memory = run.path.parent, minutes * 60, memory
        self.form = file_form(settings.backend, settings.device, settings.options.use_xnnpack)

    def run(self) -> dict:
        """Do the work that is not done yet; returns the record in `platform.json`.

        Raises:
            UserError: the plan or the measurements are damaged, or of other settings or another machine.
        """
        self._begin()
        open_reference(self.device, self.settings.backend)
        self._measure_blocks()
        model = fit_blocks(Data.of(self.plan, self.journal))
        if not self.plan.test_nets:
            self.plan = add_nets(self.plan, lambda specs: ModelPlatform(model).predict_subnets(specs).ms)
            self.plan.save(self.opened)
        self._measure_correction_nets()
        self._measure_test_nets()
        rows = list(self.journal.rows.values())
        return fit_profile_platform(self.folder, Data.of(self.plan, self.journal), rows, model)

    def _begin(self) -> None:
        machine = self.device.describe()
        if self.opened.continues:
            self.plan = Plan.load(self.opened, self.settings, machine)
        else:
            self.plan = make_plan(self.settings, machine)
        self.opened.begin()
        self.plan.save(self.opened)
        self.journal = Journal(self.folder / "measurements.csv")

    def _measure_blocks(self) -> None:
        todo = [block for block in self.plan.blocks if ("block", block_key(*block)) not in self.journal.rows]
        least = FEWEST["blocks"] - len(self.plan.blocks) + len(todo)
        for block in self._in_time("blocks", todo, BLOCK_SHARE, least):
            self._measure("block", block_key(*block),
                          partial(block_model, self.form, *block, self.settings.weight_bits))

    def _measure_correction_nets(self) -> None:
        todo = [net for net in self.plan.correction_nets if ("correction", str(net)) not in self.journal.rows]
        done = len(self.plan.correction_nets) - len(todo)
        for net in self._in_time("networks to correct with", todo, CORRECTION_SHARE, FEWEST["correction_nets"] - done):
            self._measure("correction", str(net), partial(self._model, net))

    def _in_time(self, what: str, items: Sequence, share: float, least: int) -> Iterator:
        """The `items` to measure, until `share` of the time is used up, but at least `least` of them."""
        for number, item in enumerate(tqdm(items, desc=what, disable=not sys.stderr.isatty())):
            if number >= least and self.journal.seconds > share * self.seconds:
                _say(f"{len(items) - number} {what} are left out: their share of the time is up")
                return
            yield item
        _say(f"{len(items)} {what} measured")

    def _measure(self, role: str, name: str, build: Callable[[], bytes]) -> None:
        start = time.monotonic()
        measured = measure(self.device, build())
        self.journal.add([Row.of(role, name, measured, time.monotonic() - start)])

    def _model(self, net: Net) -> bytes:
        return net_model(self.form, net.spec, self.settings.weight_bits)

    def _measure_test_nets(self) -> None:
        if len(self.journal.of("test2")) == len(self.plan.test_nets):
            if self.memory and not any(np.isfinite(row.peak_mb) for row in self.journal.rows.values()):
                say("--memory has no effect: the test networks are measured already")
            return
        _say(f"{len(self.plan.test_nets)} networks to validate on: in turns, twice")
        start, peaks = time.monotonic(), {}
        for net in self.plan.test_nets:
            content = self._model(net)
            peaks[str(net)] = self.device.peak_memory(content) if self.memory else float("nan")
            self.device.open(str(net), content)
        passes = measure_together(self.device, list(peaks), 2, TEST_SECONDS)
        each = (time.monotonic() - start) / len(peaks) / len(passes)
        self.journal.add([Row.of(f"test{number}", name, measured, each, peaks[name])
                          for number, measurements in enumerate(passes, 1) for name, measured in measurements.items()])


def _say(text: str) -> None:
    print(text, flush=True)
