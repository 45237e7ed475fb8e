"""Evolution of a structure by a zero-shot score, within limits of size, operations, depth and latency."""
from __future__ import annotations

import math
import operator
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from modules.latency import predict_subnets
from modules.latency.profile.timer import network_timer
from modules.search.evolution import History
from modules.search.footprint import net_footprint
from modules.search.limits import SizeLimits
from modules.search.log import SearchLog
from modules.search.measured import MOST, Measured, measure_best
from modules.search.progress_figure import draw_progress
from modules.search.survival import SurvivalEvolution
from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zen_space import ZenSpace
from modules.utils.errors import UserError
from modules.utils.files import atomic_write, write_manifest
from modules.utils.results import write_table
from modules.utils.runs import STATE_FILE, Run
from modules.zero_shot.counts import published_counts
from modules.zero_shot.network import structure_net
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.pool import ScorePool
from modules.zero_shot.scoring import scores, seed_of

_SEED_SIZE = 10
_ROUNDS = 4  # of search and measurement; each but the first searches a quarter as long as the first
_PATIENCE = 4  # networks measured, for each one wanted, before a round ends with none that keeps the limit
LOGS = ("search.log",)
FILES = ("scores.csv", "best_structure.txt", "best_structure.txt.json", "search.png", "measured.csv")


@dataclass(frozen=True)
class Limits:
    """Upper limits of a structure; None: any number. FLOPs and model size as `published_counts` has them.

    Where the platform's model extrapolates, a latency (ms) is to be kept with probability `confidence` if errors are
    normal; 0: as predicted, as it is everywhere else. `sizes` are counted as everywhere else, not as published.
    """

    layers: int | None = None
    model_size: float | None = None
    flops: float | None = None
    latency: float | None = None
    platform: str = ""
    confidence: float = 0.9
    sizes: SizeLimits = field(default_factory=SizeLimits)

    def __str__(self) -> str:
        """Those that are given."""
        known = {"layers": self.layers, "parameters": self.model_size, "multiply-accumulates": self.flops}
        parts = [f"at most {value:g} {what}" for what, value in known.items() if value is not None]
        parts += [f"{self.latency:g} ms on {self.platform}"] if self.latency is not None else []
        return ", ".join([*parts, *([str(self.sizes)] if self.sizes else [])])

    def __post_init__(self):
        for option, value in (("max_layers", self.layers), ("budget_model_size", self.model_size),
                              ("budget_flops", self.flops), ("budget_latency", self.latency)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{option} {value:g}; expected a finite number above 0")
        if self.latency is not None and not self.platform:
            raise UserError("--budget_latency without --platform; expected the device it is of, such as onnx_lut")


def score_structure(structure: Structure, proxy: str, batch: int, classes: int, resolution: int, seed: int,
                    device: str = "cpu") -> float:
    """The proxy's score of a structure without shortcuts."""
    spec = plain_view(structure_net(structure, resolution, classes, shortcuts=False))
    return scores(spec, proxy, batch, 1, seed_of(str(structure), seed), device)[0]


class ZenSearch:
    """Searches `space` from `start`, within `limits`.

    Args:
        proxy, batch: as of `scores`; every structure is scored once.
        classes, resolution: of the networks.
        measure: with a latency limit, how many structures within it by measurement to look for at the end.
        random_start: the first structures are random, not mutated from `start`.
        children: number of structures from one population. `workers` processes score them side by side (0: this one);
            the result is the same for any number.
        device: where scores are computed, such as "cuda"; the result depends on it by its rounding.
    """

    def __init__(self, space: ZenSpace, start: Structure, limits: Limits, *, proxy: str, batch: int, classes: int,
                 resolution: int, population_size: int, seed: int, measure: int = 0, random_start: bool = False,
                 children: int = 1, workers: int = 0, device: str = "cpu"):
        self.limits, self.proxy, self.batch, self.seed = limits, proxy, batch, seed
        self.classes, self.resolution = classes, resolution
        self.identity = {"space": asdict(space), "start": str(start), "limits": asdict(limits), "proxy": proxy,
                         "batch_size": batch, "classes": classes, "resolution": resolution,
                         "population_size": population_size, "seed": seed, "random_start": random_start,
                         "children": children, "device": device}
        if workers > 1 and children == 1:
            raise UserError(f"--workers {workers} with --children 1, which one worker scores; allowed: --children 2 or "
                            "more, such as 16")
        self.platform, self.measure = None, measure
        self.round, self.factor = 0, 1.0  # how many times the predicted latency networks took as measured
        if limits.platform:
            from modules.latency import get_platform

            self.platform = get_platform(limits.platform)
        self.timer = network_timer(limits.platform, self.platform) if measure else None
        self.score = partial(score_structure, proxy=proxy, batch=batch, classes=classes, resolution=resolution,
                             seed=seed, device=device)
        self.pool = ScorePool(self.score, workers, self._macs) if children > 1 else None
        self.history: History[Structure, float] = History(self.score, float)
        self.evolution = SurvivalEvolution(
            self.history, start, space.mutate, self.accepts, population_size, np.random.default_rng(seed), _SEED_SIZE,
            draw=space.draw if random_start else None, children=children, score_all=self.pool)

    def accepts(self, structure: Structure) -> bool:
        """Whether the structure keeps the limits; cheap ones are checked first."""
        limits = self.limits
        if limits.layers is not None and structure.num_layers > limits.layers:
            return False
        flops, size = published_counts(structure, self.resolution, self.classes)
        if (limits.model_size is not None and size > limits.model_size) or (
                limits.flops is not None and flops > limits.flops):
            return False
        if limits.sizes and not limits.sizes.keep(
                net_footprint(structure_net(structure, self.resolution, self.classes))):
            return False
        return self.fits(structure)

    def fits(self, structure: Structure) -> bool:
        """Whether the structure keeps the limit of latency, as predicted and corrected by measurements."""
        limit = self.limits.latency
        return limit is None or self.latency(structure) * self.factor <= limit

    def _macs(self, structure: Structure) -> float:
        return published_counts(structure, self.resolution, self.classes)[0]

    def latency(self, structure: Structure) -> float:
        """The milliseconds on the platform that the limit is for (`Limits`)."""
        prediction = predict_subnets(self.platform, [structure_net(structure, self.resolution, self.classes)])
        confidence = self.limits.confidence
        unsure = confidence > 0 and prediction.extrapolated[0] and math.isfinite(prediction.std[0])
        return float((prediction.upper(confidence) if unsure else prediction.ms)[0])

    def run(self, run: Run, iterations: int, evaluations: int | None = None, save_seconds: float = 30) -> Structure:
        """Search, and return the best structure. The folder of `run` gets everything that continuing needs, and
        the result. Where none of the best keeps the limit as measured, predictions are corrected by the median ratio
        of measured to predicted latency, and the search goes on.

        Raises:
            UserError: nothing within the limits was found; a state that is damaged, or of another search.
        """
        run.check_unclaimed()
        run.begin(self._load(run) if run.continues else None)
        with SearchLog(run.path.with_name("search.log"), append=True) as log:
            self._evolve(run, log, iterations, evaluations, save_seconds)
            measured = self._measure_best(run)
            while measured and not measured[0].keeps and self.round < _ROUNDS - 1:
                self._correct(measured)
                self._evolve(run, log, iterations, evaluations, save_seconds)
                measured = self._measure_best(run) or measured
        if self.pool:
            self.pool.close()
        best = self.history.top(1)[0]
        if measured and measured[0].keeps:
            best = next(e for e in self.history.entries if e.individual == measured[0].individual)
        elif measured:
            print(f"none of the {len(measured)} best structures is within {self.limits.latency:g} ms as measured",
                  file=sys.stderr)
        self._report(run, best)
        return best.individual

    def _evolve(self, run: Run, log: SearchLog, iterations: int, evaluations: int | None, save_seconds: float) -> None:
        """Evolution up to the end of the current round; UserError if it has found nothing."""
        share, saved = 1 + self.round / 4, -math.inf
        for _ in self.evolution.run(math.ceil(share * iterations), evaluations and math.ceil(share * evaluations)):
            if time.monotonic() - saved > save_seconds:
                self._save(run, log)
                saved = time.monotonic()
        self._save(run, log)
        if not self.history.entries:
            raise UserError(f"no structure within the limits in {self.evolution.iteration} iterations from "
                            f"{self.evolution.seed}; allow more, or start from a smaller one")

    def _correct(self, measured: list[Measured]) -> None:
        """Begin a round with predictions corrected by what was measured."""
        self.round += 1
        self.factor = max(self.factor, float(np.median([m.measured / m.predicted for m in measured])))
        print(f"none of the {len(measured)} best structures is within {self.limits.latency:g} ms as measured; the "
              f"search goes on with {self.factor:.3g} times the predicted latencies", flush=True)
        self.evolution.restrict(self.fits)

    def _measure_best(self, run: Run) -> list[Measured]:
        """The best structures as measured, also in measured.csv; none without a limit of latency."""
        if not self.measure or self.limits.latency is None:
            return []
        ranked = ((entry.individual, entry.fitness) for entry in self.history.top(len(self.history))
                  if self.fits(entry.individual))
        found = measure_best(
            ranked, self.latency,
            lambda structure: self.timer(structure_net(structure, self.resolution, self.classes)),
            lambda ms: ms <= self.limits.latency, self.measure, _PATIENCE if self.round < _ROUNDS - 1 else MOST)
        if not found:
            return []
        write_table(run.path.with_name("measured.csv"),
                    ["score", "predicted_ms", "measured_ms", "keeps_limit", "structure"],
                    ([f"{m.score:.6g}", f"{m.predicted:.4f}", f"{m.measured:.4f}", int(m.keeps), m.individual]
                     for m in found))
        return found

    def _progress(self) -> str:
        population = self.evolution.population()
        best = f"best {population[-1][0]:.4g}, worst alive {population[0][0]:.4g}" if population else "none yet"
        return f"iteration {self.evolution.iteration}: {len(self.history)} scored, {best}"

    def _report(self, run: Run, best) -> None:
        folder, entries = run.path.parent, self.history.entries
        write_table(folder / "scores.csv", ["index", "score", "flops", "model_size", "layers", "structure"],
                    ([index, f"{entry.fitness:.6g}",
                      *published_counts(entry.individual, self.resolution, self.classes),
                      entry.individual.num_layers, entry.individual] for index, entry in enumerate(entries)))
        path = folder / "best_structure.txt"
        with atomic_write(path) as file:
            file.write(f"{best.individual}\n")
        write_manifest(path, score=best.fitness, evaluations=len(entries), iterations=self.evolution.iteration,
                       **self.identity)
        finite = np.array([entry.fitness for entry in entries if np.isfinite(entry.fitness)])
        if len(finite):
            draw_progress(folder / "search.png", f"{self.proxy} score", finite, min(_SEED_SIZE, len(finite)),
                          self.evolution.population_size, noun="structure", survival=True)

    def _save(self, run: Run, log: SearchLog) -> None:
        log.write(self._progress())
        positions = {entry.individual: i for i, entry in enumerate(self.history.entries)}
        entries = [[str(e.individual), e.fitness if math.isfinite(e.fitness) else str(e.fitness),
                    positions[e.parent.individual] if e.parent else None] for e in self.history.entries]
        run.write_state(self.identity, {"logs": run.log_sizes(), "iteration": self.evolution.iteration,
                                        "round": self.round, "factor": self.factor,
                                        "rng": self.evolution.rng.bit_generator.state, "entries": entries})

    def _load(self, run: Run) -> dict[str, int]:
        """Put the saved search back; returns the sizes of its logs."""
        state = run.read_state(self.identity)
        with run.reading():
            for text, fitness, parent in state["entries"]:
                self.history.restore_child(Structure.parse(text), float(fitness), parent)
            self.evolution.iteration = operator.index(state["iteration"])
            self.round, self.factor = operator.index(state.get("round", 0)), float(state.get("factor", 1.0))
            if self.round:
                self.evolution.restrict(self.fits)
            self.evolution.rng.bit_generator.state = state["rng"]
            return {name: operator.index(size) for name, size in state["logs"].items()}


def search_in(folder: str | Path, search: ZenSearch, iterations: int, evaluations: int | None = None, *, resume: bool,
              overwrite: bool) -> None:
    """Run `search` with its files in `folder` (`--save_dir`), and print the best structure and its score; errors as of
    `Run` and `ZenSearch.run`."""
    with Run(Path(folder) / STATE_FILE, logs=LOGS, files=FILES, resume=resume, overwrite=overwrite,
             option="--save_dir") as opened:
        best = search.run(opened, iterations, evaluations)
    score = next(entry.fitness for entry in search.history.entries if entry.individual == best)
    print(f"{len(search.history)} structures scored; best {score:.4f}: {best}")
