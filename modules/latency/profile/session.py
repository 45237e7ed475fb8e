"""One profile, from the first measurement to the finished platform."""
from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.latency.block_model import BlockModel
from modules.latency.modelled import ModelPlatform
from modules.latency.onnxruntime_int8 import block_key
from modules.latency.platform import NORMAL_90, Prediction
from modules.latency.profile.design import Net, Sized
from modules.latency.profile.device import Device
from modules.latency.profile.journal import Journal, Row
from modules.latency.profile.measure import at_one_speed, measure, measure_together, open_reference
from modules.latency.profile.models import block_model, net_model
from modules.latency.profile.plan import Plan, Settings, add_nets, make_plan
from modules.latency.profile.profiled import MODEL, RECORD, ProfiledPlatform
from modules.latency.profile.validation import block_figures, draw_report, net_figures
from modules.latency.profile.wholenet import Correction, fit_correction, net_terms
from modules.utils.errors import UserError
from modules.utils.files import atomic_write

BLOCK_SHARE, CORRECTION_SHARE = 0.55, 0.8  # of the time limit, at which blocks and networks to correct with are cut
FEWEST_NETS = 10  # networks that a correction needs
TEST_SECONDS = 20  # of each of the two passes over the test networks


class Session:
    """Measures on `device` what the plan in `folder` says, and turns it into a platform there."""

    def __init__(self, folder: Path, settings: Settings, device: Device, minutes: float, memory: bool = False):
        self.folder, self.settings, self.device = folder, settings, device
        self.seconds, self.memory = minutes * 60, memory
        self.plan_path, machine = folder / "plan.json", device.describe()
        begun = self.plan_path.is_file()
        self.plan = Plan.load(self.plan_path, settings, machine) if begun else make_plan(settings, machine)
        self.plan.save(self.plan_path)
        self.journal = Journal(folder / "measurements.csv")

    def run(self) -> dict:
        """Do what is not done yet; returns the record that `platform.json` holds."""
        open_reference(self.device, self.settings.backend)
        self._measure_blocks()
        model = self._fit([*self.plan.fitted, *self.plan.held_out])
        if not self.plan.test_nets:
            self.plan = add_nets(self.plan, lambda specs: ModelPlatform(model).predict_subnets(specs).ms)
            self.plan.save(self.plan_path)
        self._measure_correction_nets()
        self._measure_test_nets()
        return self._finish(model)

    def _measure_blocks(self) -> None:
        todo = [block for block in self.plan.blocks if ("block", block_key(*block)) not in self.journal.rows]
        for block in self._in_time("blocks", todo, BLOCK_SHARE, 0):
            self._measure("block", block_key(*block), partial(block_model, self.settings.backend, *block))

    def _measure_correction_nets(self) -> None:
        todo = [net for net in self.plan.correction_nets if ("correction", str(net)) not in self.journal.rows]
        done = len(self.plan.correction_nets) - len(todo)
        for net in self._in_time("networks to correct with", todo, CORRECTION_SHARE, FEWEST_NETS - done):
            self._measure("correction", str(net), partial(net_model, self.settings.backend, net.spec))

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

    def _measure_test_nets(self) -> None:
        if len(self.journal.of("test2")) == len(self.plan.test_nets):
            return
        _say(f"{len(self.plan.test_nets)} networks to validate on: in turns, twice")
        start, peaks = time.monotonic(), {}
        for net in self.plan.test_nets:
            content = net_model(self.settings.backend, net.spec)
            peaks[str(net)] = self.device.peak_memory(content) if self.memory else float("nan")
            self.device.open(str(net), content)
        passes = measure_together(self.device, list(peaks), 2, TEST_SECONDS)
        each = (time.monotonic() - start) / len(peaks) / len(passes)
        self.journal.add([Row.of(f"test{number}", name, measured, each, peaks[name])
                          for number, measurements in enumerate(passes, 1) for name, measured in measurements.items()])

    def _latencies(self) -> dict[tuple[str, str], float]:
        rows = list(self.journal.rows.values())
        ms = at_one_speed([row.ms for row in rows], [row.reference_ms for row in rows])
        return {(row.role, row.name): float(value) for row, value in zip(rows, ms, strict=True)}

    def _fit(self, blocks: Sequence[Sized]) -> BlockModel:
        blocks, ms = self._measured(blocks)
        return BlockModel.fit([block for block, _ in blocks], [hw for _, hw in blocks], ms)

    def _measured(self, blocks: Sequence[Sized]) -> tuple[list[Sized], np.ndarray]:
        known = self._latencies()
        blocks = [block for block in blocks if ("block", block_key(*block)) in known]
        return blocks, np.array([known["block", block_key(*block)] for block in blocks])

    def _nets(self, role: str, nets: Sequence[Net]) -> np.ndarray:
        known = self._latencies()
        return np.array([known[role, str(net)] for net in nets])

    def _finish(self, model: BlockModel) -> dict:
        correction = self._correction(model)
        blocks = self._validate_blocks()
        specs = [net.spec for net in self.plan.test_nets]
        sums = ModelPlatform(model).predict_subnets(specs)
        predicted = ProfiledPlatform(model, correction).predict_subnets(specs)
        first, second = (self._nets(role, self.plan.test_nets) for role in ("test1", "test2"))
        record = self._record(correction, {
            "blocks": block_figures(*blocks), "networks": net_figures(first, second, predicted, sums.ms)})
        model.save(self.folder / MODEL)
        self._draw(blocks, (first + second) / 2, predicted)
        with atomic_write(self.folder / RECORD) as file:
            json.dump(record, file, indent=2)
            file.write("\n")
        return record

    def _corrected_nets(self) -> list[Net]:
        return [net for net in self.plan.correction_nets if ("correction", str(net)) in self.journal.rows]

    def _correction(self, model: BlockModel) -> Correction:
        nets = self._corrected_nets()
        specs = [net.spec for net in nets]
        sums = ModelPlatform(model).predict_subnets(specs).ms
        return fit_correction(sums, net_terms(specs), self._nets("correction", nets))

    def _validate_blocks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Measured ms, predicted ms and relative deviations of the held-out blocks by a model that never saw them."""
        blocks, ms = self._measured(self.plan.held_out)
        predicted, deviation, _ = self._fit(self.plan.fitted).predict([b for b, _ in blocks], [hw for _, hw in blocks])
        return ms, predicted, deviation

    def _record(self, correction: Correction, validation: dict) -> dict:
        rows, settings = list(self.journal.rows.values()), asdict(self.settings)
        record = {
            "command": "python -m modules.latency.profile " + shlex.join(sys.argv[1:]),
            "machine": self.plan.machine, **settings,
            "configurations": len({(row.role.rstrip("12"), row.name) for row in rows}),
            "seconds": round(self.journal.seconds, 1),
            "reference_ms": round(float(np.median([row.reference_ms for row in rows])), 5),
            "correction": {"coefficients": list(correction.coefficients), "deviation": correction.deviation},
            "validation": validation}
        peaks = [row.peak_mb for row in self.journal.of("test1") if np.isfinite(row.peak_mb)]
        if peaks:
            record["peak_memory_mb"] = {"smallest": min(peaks), "largest": max(peaks)}
        return record

    def _draw(self, blocks, measured: np.ndarray, predicted: Prediction) -> None:
        s, machine = self.settings, self.plan.machine
        title = (f"{self.folder.name}: {machine['cpu']}, {machine['runtime']}, {s.superspace} int8, "
                 f"threads {s.threads}, batch {s.batch}")
        draw_report(self.folder / "report.png", title, blocks[:2], (measured, predicted.ms, NORMAL_90 * predicted.std))


def check_counts(settings: Settings) -> None:
    """UserError where too few configurations are asked for to fit or validate anything."""
    for name, least in (("blocks", 12), ("held_out", 2), ("correction_nets", FEWEST_NETS), ("test_nets", 3)):
        if getattr(settings, name) < least:
            raise UserError(f"--{name} {getattr(settings, name)}; at least {least} are needed")


def _say(text: str) -> None:
    print(text, flush=True)
