"""Scoring of spaces of one superspace on one platform: the parts made from the user's settings."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from operator import attrgetter
from pathlib import Path

import numpy as np

from modules.block_kd.lut.other_stages import MODES, load_other_stages
from modules.block_kd.lut.tables import BlockTables, load_tables
from modules.block_kd.score.exact import ExactEstimator
from modules.block_kd.score.quality import COUPLINGS, Estimator, SpaceScore, Target, score_space
from modules.block_kd.score.sample import SampleEstimator
from modules.block_kd.space_search.figures import draw_distribution
from modules.block_kd.space_search.files import SpaceEntry, describe, write_scores
from modules.search.evolution import History
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.utils.files import write_manifest
from modules.utils.settings import PIXELS, SEED, check_settings, setting

ESTIMATORS = ("sample", "exact")
CACHE_MB = 768  # of the exact estimators, all limits together


@dataclass(frozen=True)
class Scoring:
    """Settings of the score; see `Target`, `SampleEstimator` and `load_other_stages` for the single fields."""

    superspace: str
    platform: str
    lut_path: str
    limits: tuple[float, ...] = setting(MISSING, "latency limits; the scores under several are added up", many="+",
                                        above=0, unit="ms", name="latency_constraint")
    t: float = setting(0.1, "share of subnets wanted within the limit", above=0, name="latency_loss_t")
    a: float = setting(0.01, "weight of falling short of that share", above=0, name="latency_loss_a")
    estimator: str = setting("sample", "law of a space's subnets; sample: 100,000 are drawn, exact: it is computed",
                             choices=ESTIMATORS)
    width_coupling: str = setting("independent", "rows that are combined; independent: any, chained: those whose "
                                  "widths meet", choices=COUPLINGS)
    other_stages: str = setting("smallest", "stages that are not searched; smallest: as small as they get, sampled: "
                                "drawn too", choices=MODES)
    resolutions: tuple[int, ...] = setting((), "resolutions of the tables", many="+", name="hw_list", **PIXELS,
                                           shown="those in lut.json, or the superspace's")
    seed: int = SEED.field()

    def __post_init__(self):
        check_settings(self)
        if not self.limits:
            raise UserError("no latency limit; give --latency_constraint in ms, as in --latency_constraint 10")


@dataclass(frozen=True)
class SpaceScorer:
    """Scores spaces: block tables, latencies of the other stages, and one estimator per limit."""

    scoring: Scoring
    tables: BlockTables
    others: tuple[np.ndarray, ...]
    estimators: tuple[Estimator, ...] = field(repr=False)

    def __call__(self, config: SupernetConfig) -> SpaceScore:
        return score_space(self.estimators, config)

    def draw_figure(self, path: Path, config: SupernetConfig, score: SpaceScore) -> None:
        """Distribution of loss and latency of `config`, from 100,000 draws with either estimator."""
        s = self.scoring
        sampler = SampleEstimator(self.tables, self.others, Target(s.limits[0]), s.width_coupling, (s.seed, 0))
        draw_distribution(path, str(config), sampler.draw(config), s.limits, score)


def make_scorer(scoring: Scoring, configs: Sequence[SupernetConfig] | None = None) -> SpaceScorer:
    """Load the tables and latencies for scoring `configs` (None: any space of the superspace).

    Raises:
        UserError: tables missing, malformed or of other resolutions; an unknown platform; a limit below every subnet.
    """
    resolutions = scoring.resolutions or get_superspace(scoring.superspace).block_kd_resolutions
    tables = load_tables(scoring.lut_path, scoring.superspace, resolutions, configs, scoring.platform)
    others = load_other_stages(scoring.platform, scoring.superspace, tables.resolutions, scoring.other_stages,
                               scoring.lut_path)
    fastest = min(sum(min(rows[r].latency.min() for rows in stage.values()) for stage in tables.stages) + other.min()
                  for r, other in enumerate(others))
    for limit in scoring.limits:
        if limit < fastest:
            raise UserError(f"--latency_constraint {limit:g}: below every subnet; the fastest that the tables of "
                            f"{scoring.superspace} give takes {fastest:.2f} ms on {scoring.platform}")
    estimators = []
    for index, limit in enumerate(scoring.limits):
        arguments = (tables, others, Target(limit, scoring.t, scoring.a), scoring.width_coupling)
        if scoring.estimator == "exact":
            estimators.append(ExactEstimator(*arguments, cache_mb=CACHE_MB / len(scoring.limits)))
        else:
            estimators.append(SampleEstimator(*arguments, seed=(scoring.seed, index)))
    return SpaceScorer(scoring, tables, others, tuple(estimators))


def score_choices(scoring: Scoring, choices: Sequence[str], folder: Path) -> list[SpaceEntry]:
    """Score the given spaces and write `scores.csv` and `cdf/<choice>.png`; no search."""
    configs = [SupernetConfig.from_choice(scoring.superspace, choice) for choice in choices]
    scorer = make_scorer(scoring, configs)
    history = History(scorer, attrgetter("score"))
    for config in configs:
        if not history.add(config):
            continue
        entry = history.entries[-1]
        print(describe(entry))
        for limit, quality in zip(scoring.limits, entry.result.per_limit, strict=True):
            if not quality.feasible:
                print(f"warning: no subnet of {config} is within {limit:g} ms", file=sys.stderr)
        scorer.draw_figure(folder / "cdf" / f"{config.choice}.png", config, entry.result)
    write_scores(folder / "scores.csv", history.entries, scoring.limits)
    write_manifest(folder / "scores.csv", **vars(scoring))
    return history.entries
