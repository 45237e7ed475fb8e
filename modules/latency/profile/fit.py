"""The platform of a profile, made from its measurements: predictor, correction, validation, and their files."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from modules.latency.fitted.block_model import BlockModel, FitSettings
from modules.latency.fitted.platform import ModelPlatform
from modules.latency.keys import block_key
from modules.latency.prediction import NORMAL_90
from modules.latency.profile.design import Net
from modules.latency.profile.journal import Journal, Row
from modules.latency.profile.measure import at_one_speed, usual_reference
from modules.latency.profile.plan import Plan
from modules.latency.profile.profiled import MODEL, RECORD, ProfiledPlatform
from modules.latency.profile.validation import block_figures, draw_report, net_figures
from modules.latency.profile.wholenet import TERMS, Correction, fit_correction, net_terms
from modules.modeling.complexity import Sized
from modules.utils.files import command, write_json

FOLDS = 5  # of the validation
# More folds than usual for the uncertainty: with so few blocks, a model without a fifth of them is clearly worse.
SETTINGS = FitSettings(folds=10)


@dataclass(frozen=True)
class Data:
    """The measurements of `plan`; `latencies` are ms at one speed of the device, by role and name."""

    plan: Plan
    latencies: dict[tuple[str, str], float]

    @staticmethod
    def of(plan: Plan, journal: Journal) -> Data:
        """The rows of `journal`, corrected for drift."""
        rows = list(journal.rows.values())
        ms = at_one_speed([row.ms for row in rows], [row.reference_ms for row in rows], usual_reference(rows))
        return Data(plan, {(row.role, row.name): float(v) for row, v in zip(rows, ms, strict=True)})

    @cached_property
    def blocks(self) -> list[Sized]:
        """The measured blocks."""
        return [block for block in self.plan.blocks if ("block", block_key(*block)) in self.latencies]

    @cached_property
    def ms(self) -> np.ndarray:
        """Latencies of the measured blocks in ms, (blocks,), such as (550,)."""
        return np.array([self.latencies["block", block_key(*block)] for block in self.blocks])

    @cached_property
    def representative(self) -> np.ndarray:
        """Mask (blocks,), such as (550,), of blocks drawn in proportion to their use in networks."""
        drawn = set(self.plan.representative)
        return np.array([block in drawn for block in self.blocks])

    def nets(self, role: str, nets: Sequence[Net]) -> tuple[list[Net], np.ndarray]:
        """Those of `nets` that were measured in `role`, and their latencies."""
        nets = [net for net in nets if (role, str(net)) in self.latencies]
        return nets, np.array([self.latencies[role, str(net)] for net in nets])


def fit_blocks(data: Data, rows: np.ndarray | None = None) -> BlockModel:
    """The predictor fitted to the measured blocks, or to those numbered `rows`."""
    rows = np.arange(len(data.blocks)) if rows is None else rows
    blocks, hws = zip(*(data.blocks[i] for i in rows), strict=True)
    return BlockModel.fit(blocks, hws, data.ms[rows], settings=SETTINGS, representative=data.representative[rows])


def cross_validate(data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured ms, predicted ms and relative standard deviations of the representative blocks, (n,) each, such as
    (264,).

    The predictor of each block saw neither the block nor the others of its part.
    """
    rows = np.flatnonzero(data.representative)
    part = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    predicted, deviation = np.zeros(len(rows)), np.zeros(len(rows))
    for number in np.unique(part):
        unseen = rows[part == number]
        model = fit_blocks(data, np.setdiff1d(np.arange(len(data.blocks)), unseen))
        blocks, hws = zip(*(data.blocks[i] for i in unseen), strict=True)
        predicted[part == number], deviation[part == number], _ = model.predict(blocks, hws)
    return data.ms[rows], predicted, deviation


def fit_whole(data: Data, model: BlockModel) -> Correction:
    """The correction fitted to the networks measured for it."""
    nets, ms = data.nets("correction", data.plan.correction_nets)
    specs = [net.spec for net in nets]
    return fit_correction(ModelPlatform(model).predict_subnets(specs).ms, net_terms(specs), ms)


def fit_profile_platform(folder: Path, data: Data, rows: Sequence[Row], model: BlockModel) -> dict:
    """Correct `model`, validate it and write the platform's files; returns the record that `platform.json` holds."""
    correction, blocks = fit_whole(data, model), cross_validate(data)
    (nets, first), (_, second) = (data.nets(role, data.plan.test_nets) for role in ("test1", "test2"))
    specs = [net.spec for net in nets]
    sums = ModelPlatform(model).predict_subnets(specs).ms
    predicted = ProfiledPlatform(model, correction).predict_subnets(specs)
    settings, machine = data.plan.settings, data.plan.machine
    record = {
        "command": command(),
        "machine": machine, **asdict(settings),
        "configurations": len({(row.role.rstrip("12"), row.name) for row in rows}),
        "seconds": round(sum(row.seconds for row in rows), 1),
        "reference_ms": round(usual_reference(rows), 5),
        "correction": {"terms": TERMS, **asdict(correction)},
        "validation": {"blocks": block_figures(*blocks), "networks": net_figures(first, second, predicted, sums)}}
    peaks = [row.peak_mb for row in rows if np.isfinite(row.peak_mb)]
    if peaks:
        record["peak_memory_mb"] = {"smallest": min(peaks), "largest": max(peaks)}
    model.save(folder / MODEL)
    title = (f"{folder.name}: {machine['cpu']}, {machine['runtime']}, {settings.superspace} int8, "
             f"threads {settings.threads}, batch {settings.batch}")
    draw_report(folder / "report.png", title, blocks[:2],
                ((first + second) / 2, predicted.ms, NORMAL_90 * predicted.std))
    write_json(folder / RECORD, record)  # last: this file makes the folder a platform
    return record
