"""Scoring of spaces of one superspace on one platform: the parts made from the user's settings."""
from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

import numpy as np

from modules.block_kd.lut.other_stages import MODES, load_other_stages
from modules.block_kd.lut.tables import (
    SETTINGS_FILE,
    ZERO_SHOT,
    BlockTables,
    found_settings,
    is_zero_shot,
    load_tables,
    read_settings,
)
from modules.block_kd.score.exact import ExactEstimator
from modules.block_kd.score.quality import COUPLINGS, Estimator, SpaceScore, Target, score_space
from modules.block_kd.score.sample import SampleEstimator
from modules.block_kd.score.sizes import TableSizes
from modules.block_kd.space_search.figures import draw_distribution
from modules.block_kd.space_search.files import SpaceEntry, describe, write_scores
from modules.block_kd.space_search.spaces import Spaces
from modules.search.evolution import History
from modules.search.limits import SizeLimits, check_limited
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.utils.files import write_manifest
from modules.utils.notes import say
from modules.utils.settings import PIXELS, SEED, check_settings, setting

ESTIMATORS = ("sample", "exact")
STAGE_LOSSES = ("published", "relative")
CACHE_MB = 768  # of the exact estimators, all limits together


@dataclass(frozen=True)
class Scoring:
    """Settings of the score; see `Target`, `SampleEstimator` and `load_other_stages` for the single fields."""

    superspace: str
    platform: str
    lut_path: str
    limits: tuple[float, ...] = setting((), "latency limits; the scores under several are added up", many="+",
                                        above=0, unit="ms", name="latency_constraint", shown="any latency, where "
                                        "another limit is given")
    t: float = setting(0.1, "share of subnets wanted within the limit", above=0, name="latency_loss_t")
    a: float = setting(0.01, "weight of falling short of that share", above=0, name="latency_loss_a")
    estimator: str = setting("sample", "law of a space's subnets; sample: 100,000 are drawn, exact: it is computed",
                             choices=ESTIMATORS)
    width_coupling: str = setting("independent", "rows that are combined; independent: any, chained: those whose "
                                  "widths meet", choices=COUPLINGS)
    other_stages: str = setting("smallest", "stages that are not searched; smallest: as small as they get, sampled: "
                                "drawn too", choices=MODES)
    stage_losses: str = setting("published", "losses that are added up; published: those of the tables, relative: "
                                "those of a stage divided by their mean over all its tables",
                                choices=STAGE_LOSSES)
    zero_shot_lut_path: str = setting("", "folder of tables whose losses are a training-free score (eval_block_kd.py "
                                      "--proxy); then relative losses of both kinds are added up", shown="none")
    zero_shot_weight: float = setting(1.0, "factor of the losses from --zero_shot_lut_path", above=0)
    resolutions: tuple[int, ...] = setting((), "resolutions of the tables", many="+", name="hw_list", **PIXELS,
                                           shown="those in lut.json, or the superspace's")
    block_types: tuple[str, ...] = setting((), "block types that the search may choose, such as ResNetBasic", many="+",
                                           metavar="TYPE", shown="all of the superspace")
    seed: int = SEED.field()
    sizes: SizeLimits = field(default_factory=SizeLimits)
    num_classes: int = setting(1000, "classes of the networks whose sizes are limited; latencies are of 1000", low=1,
                               high=10**6)

    def __post_init__(self):
        check_settings(self)
        self.spaces.blocks  # noqa: B018 - refuses an unknown type
        check_limited(self.limits, self.sizes)
        if self.num_classes != 1000 and not self.sizes:
            say("--num_classes has no effect without a limit of a size")
        if self.zero_shot_weight != 1 and not self.zero_shot_lut_path:
            raise UserError(f"--zero_shot_weight {self.zero_shot_weight:g} without --zero_shot_lut_path; give "
                            "the tables too")
        if self.estimator == "exact" and (self.sizes or not self.limits):
            raise UserError(f"--estimator exact with {self.sizes}: it is computed over latency alone; allowed with "
                            "other limits: sample")

    @property
    def spaces(self) -> Spaces:
        """The spaces to choose among."""
        return Spaces(self.superspace, self.block_types)

    @property
    def relative(self) -> bool:
        """Whether the losses of a stage are divided by their mean."""
        return self.stage_losses == "relative" or bool(self.zero_shot_lut_path)

    @property
    def latencies(self) -> tuple[float, ...]:
        """The latency limits (ms); without any, one that every subnet keeps."""
        return self.limits or (math.inf,)

    @property
    def identity(self) -> dict:
        """Everything that scores depend on, as plain values."""
        left_out = (() if self.sizes else ("sizes", "num_classes")) + (() if self.block_types else ("block_types",))
        # a search from before these options continues
        left_out += () if self._losses == "relative" else ("stage_losses",)
        left_out += () if self.zero_shot_lut_path else ("zero_shot_lut_path", "zero_shot_weight")
        return {k: v for k, v in {**vars(self), "sizes": self.sizes.given}.items() if k not in left_out}

    @property
    def _losses(self) -> str:
        """The losses that are added up, for the name of a folder; empty for published ones."""
        if self.zero_shot_lut_path:
            return f"zero_shot{self.zero_shot_weight:g}"
        return "relative" if self.relative else ""

    @property
    def label(self) -> str:
        """The limits and parameters, for the name of a folder."""
        latency = f"c{'+'.join(f'{limit:g}' for limit in self.limits)}" if self.limits else ""
        return "_".join(filter(None, (latency, self.sizes.label, f"t{self.t:g}", f"a{self.a:g}", self._losses)))

    @property
    def words(self) -> str:
        """The limits in words, such as `10 ms, 20 ms, --max_params 5`."""
        return ", ".join([*(f"{limit:g} ms" for limit in self.limits), *([str(self.sizes)] if self.sizes else [])])


@dataclass(frozen=True)
class SpaceScorer:
    """Scores spaces: block tables, latencies of the other stages, and one estimator per limit."""

    scoring: Scoring
    tables: BlockTables
    others: tuple[np.ndarray, ...]
    estimators: tuple[Estimator, ...] = field(repr=False)
    sizes: TableSizes | None = None

    def __call__(self, config: SupernetConfig) -> SpaceScore:
        return score_space(self.estimators, config)

    def draw_figure(self, path: Path, config: SupernetConfig, score: SpaceScore) -> None:
        """Distribution of loss and latency of `config`, from 100,000 draws with either estimator."""
        s = self.scoring
        sampler = SampleEstimator(self.tables, self.others, Target(s.latencies[0]), s.width_coupling, (s.seed, 0),
                                  self.sizes)
        draw_distribution(path, str(config), sampler.draw(config), s.limits, score,
                          "relative to its stage" if s.relative else _loss_name(s))


def _loss_name(scoring: Scoring) -> str:
    """The loss of the tables in a word or two: that of their settings, NSR for tables without."""
    name = found_settings(Path(scoring.lut_path) / scoring.superspace).get("loss_fn", "nsr")
    return {"nsr": "NSR", "mse": "MSE"}.get(name, str(name).removeprefix(ZERO_SHOT))


def make_scorer(scoring: Scoring, configs: Sequence[SupernetConfig] | None = None) -> SpaceScorer:
    """Load the tables and latencies for scoring `configs` (None: any space of the superspace with the block types of
    `scoring`).

    Relative losses need all tables with these block types: so a space has the same score whatever is scored beside it.

    Raises:
        UserError: tables missing, malformed or of other resolutions; an unknown platform; a limit below every subnet; a
            space with a block type that `scoring` leaves out.
    """
    resolutions = scoring.resolutions or get_superspace(scoring.superspace).block_kd_resolutions
    seeds = tuple(scoring.spaces.seeds())
    configs = configs or seeds
    for config in configs:
        if not set(config.blocks) <= set(scoring.spaces.blocks):
            raise UserError(f"{config} has block types other than --block_types {' '.join(scoring.block_types)}")
    needed = (*seeds, *configs) if scoring.relative else configs
    tables = load_tables(scoring.lut_path, scoring.superspace, resolutions, needed, scoring.platform)
    if scoring.relative:
        tables = tables.relative()
    if scoring.zero_shot_lut_path:
        zero_shot = _zero_shot_tables(scoring, resolutions, needed)
        tables = tables.plus_losses(zero_shot.relative(), scoring.zero_shot_weight)
    tables = tables.only(configs)
    others = load_other_stages(scoring.platform, scoring.superspace, tables.resolutions, scoring.other_stages,
                               scoring.lut_path)
    fastest = min(sum(min(rows[r].latency.min() for rows in stage.values()) for stage in tables.stages) + other.min()
                  for r, other in enumerate(others))
    for limit in scoring.limits:
        if limit < fastest:
            raise UserError(f"--latency_constraint {limit:g}: below every subnet; the fastest that the tables of "
                            f"{scoring.superspace} give takes {fastest:.2f} ms on {scoring.platform}")
    estimators = []
    sizes = TableSizes(tables, scoring.sizes, scoring.num_classes) if scoring.sizes else None
    for index, limit in enumerate(scoring.latencies):
        arguments = (tables, others, Target(limit, scoring.t, scoring.a), scoring.width_coupling)
        if scoring.estimator == "exact":
            estimators.append(ExactEstimator(*arguments, cache_mb=CACHE_MB / len(scoring.limits)))
        else:
            estimators.append(SampleEstimator(*arguments, seed=(scoring.seed, index), sizes=sizes))
    return SpaceScorer(scoring, tables, others, tuple(estimators), sizes)


def _zero_shot_tables(scoring: Scoring, resolutions: Sequence[int], configs: Sequence[SupernetConfig]) -> BlockTables:
    folder = Path(scoring.zero_shot_lut_path)
    made = folder / scoring.superspace / SETTINGS_FILE
    if not made.parent.is_dir():
        raise UserError(f"--zero_shot_lut_path {folder}: no tables of {scoring.superspace}; build them with: python "
                        f"eval_block_kd.py --superspace {scoring.superspace} --platform {scoring.platform} --hw_list "
                        f"{' '.join(map(str, resolutions))} --proxy Zen --output_path {folder} and the --manual_seed "
                        "and --num_samples_per_stage of the students' tables")
    if made.is_file() and not is_zero_shot(read_settings(made)):
        raise UserError(f"--zero_shot_lut_path {folder}: its losses are not a training-free score; expected tables of "
                        "eval_block_kd.py --proxy, such as --proxy Zen")
    return load_tables(folder, scoring.superspace, resolutions, configs, scoring.platform)


def infeasible(scoring: Scoring, entry: SpaceEntry) -> list[str]:
    """The limits of `scoring` in words, such as "0.19 ms", within which no subnet of a scored space was found."""
    return [replace(scoring, limits=(limit,) * bool(scoring.limits)).words
            for limit, quality in zip(scoring.latencies, entry.result.per_limit, strict=True) if not quality.feasible]


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
        for words in infeasible(scoring, entry):
            print(f"warning: no subnet of {config} is within {words}", file=sys.stderr)
        scorer.draw_figure(folder / "cdf" / f"{config.choice}.png", config, entry.result)
    write_scores(folder / "scores.csv", history.entries, scoring.latencies)
    write_manifest(folder / "scores.csv", **scoring.identity)
    return history.entries
