"""The search of the space: aging evolution over block types and width windows."""
from __future__ import annotations

import sys
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.block_kd.space_search.files import SpaceLog, describe, load_state, save_state, write_scores
from modules.block_kd.space_search.scorer import Scoring, SpaceScorer, infeasible, make_scorer
from modules.latency.platform import weight_bits
from modules.search.evolution import AgingEvolution, History
from modules.search.progress_figure import draw_progress
from modules.search_space.config import SupernetConfig
from modules.utils.errors import UserError
from modules.utils.files import write_manifest
from modules.utils.results import write_table
from modules.utils.runs import STATE_FILE, Run
from modules.utils.settings import check_settings, setting

TOP_SPACES = 50
_LARGE_IMAGES = 128  # pixels
SAVE_EVERY = 250  # scored spaces, a second or so of work
_FILES = ("spaces.csv", "spaces.csv.json", "top50.csv", "*_distribution.png", "search_progress.png")


@dataclass(frozen=True)
class Evolution:
    """Sizes of the evolution: individuals alive, candidates for a parent, number of spaces scored."""

    population_size: int = setting(500, "spaces that are alive", low=1)
    parent_size: int = setting(125, "spaces compared for each parent", low=1)
    cycles: int = setting(5000, "spaces scored in all", low=1)

    def __post_init__(self):
        check_settings(self)
        if self.parent_size > self.population_size:
            raise UserError(f"--parent_size {self.parent_size}; at most the population size {self.population_size}")


def search_space(scoring: Scoring, sizes: Evolution, folder: Path, resume: bool = False,
                 overwrite: bool = False) -> SupernetConfig:
    """Search for the space with the highest score; write log, tables and figures to `folder`, return the best.

    The same arguments give the same files, even if the search was killed and continued with `resume`.

    Raises:
        UserError: as `make_scorer`; `folder` holds a search and neither `resume` nor `overwrite` is set; the search to
            resume has other arguments.
    """
    with Run(folder / STATE_FILE, logs=("output.log",), files=_FILES, resume=resume, overwrite=overwrite,
             option="--output_dir") as run:
        return _search(scoring, sizes, run)


def _search(scoring: Scoring, sizes: Evolution, run: Run) -> SupernetConfig:
    folder = run.path.parent
    scorer = make_scorer(scoring)
    identity = {"block_types": scoring.block_types, **scoring.identity, **vars(sizes),
                "lut_path": scorer.tables.digest(),  # the contents, not the places
                "limits": list(scoring.limits), "resolutions": list(scorer.tables.resolutions),
                "other_stages": [other.tolist() for other in scorer.others]}
    identity.pop("zero_shot_lut_path", None)
    spaces = scoring.spaces
    evolution = AgingEvolution(History(scorer, attrgetter("score")), (spaces.mutate_block, spaces.mutate_window),
                               sizes.population_size, sizes.parent_size, np.random.default_rng(scoring.seed))
    history, name = evolution.history, scoring.superspace
    if run.continues:
        load_state(run, identity, name, evolution)
    run.begin()

    budget, saved = min(sizes.cycles, len(spaces)), len(history)
    with SpaceLog(folder / "output.log") as log, \
            tqdm(total=budget, initial=len(history), unit="space", disable=not sys.stderr.isatty()) as bar:
        log.update(history.entries)
        for _ in evolution.run(spaces.seeds(), spaces.random, budget):
            log.update(history.entries)
            bar.update(len(history) - bar.n)
            if len(history) - saved >= SAVE_EVERY:
                save_state(run, identity, evolution)
                saved = len(history)
        save_state(run, identity, evolution)
        _finish(scorer, evolution, log, folder)
    return history.top(1)[0].individual


def _finish(scorer: SpaceScorer, evolution: AgingEvolution, log: SpaceLog, folder: Path) -> None:
    """The top 50, tables, figures and the next command."""
    history, scoring = evolution.history, scorer.scoring
    top = history.top(TOP_SPACES)
    best = top[0]
    rows = [(entry, *scorer.tables.latency_range(entry.individual, scorer.others)) for entry in top]
    log.write("TOP individual:")
    for entry, low, high in rows:
        log.write(f"{describe(entry)} min_ms {low:.2f} max_ms {high:.2f}")
    log.write("(min_ms and max_ms: smallest sum of table rows at the smallest resolution and largest at the largest, "
              "with the other stages)")
    write_table(folder / "top50.csv", ["rank", "choice", "score", "min_ms_of_table_rows", "max_ms_of_table_rows"],
                ([rank, entry.individual.choice, f"{entry.result.score:.6g}", f"{low:.4f}", f"{high:.4f}"]
                 for rank, (entry, low, high) in enumerate(rows, start=1)))
    if scoring.estimator == "exact":
        low, high = (sum(values) for values in zip(*(e.bounds(best.individual) for e in scorer.estimators),
                                                   strict=True))
        log.write(f"Discretisation: the score of the best space lies between {low:.5f} and {high:.5f}")

    write_scores(folder / "spaces.csv", history.entries, scoring.latencies)
    write_manifest(folder / "spaces.csv", **scoring.identity)
    scorer.draw_figure(folder / f"{best.individual.choice}_distribution.png", best.individual, best.result)
    scores = np.array([entry.fitness for entry in history.entries])
    start = sum(entry.parent is None for entry in history.entries)
    draw_progress(folder / "search_progress.png", f"{scoring.superspace} within {scoring.words}", scores, start,
                  evolution.population_size)
    # The published recipe is for ImageNet. There are several for small images.
    recipe = "train" if max(best.individual.space.resolutions) >= _LARGE_IMAGES else "RECIPE"
    command = (f"python train_supernet.py --superspace {scoring.superspace} --supernet_choice "
               f"{best.individual.choice} --config-file supernet_training_configs/{recipe}.yaml --dataset_path IMAGES")
    if (bits := weight_bits(scoring.platform)) < 8:
        command += f" --quant_weight_bits {bits}"
    missed = infeasible(scoring, best)
    if len(missed) == len(scoring.latencies):
        raise UserError(f"no subnet of any of the {len(history)} scored spaces was found within {scoring.words}; give "
                        "a higher limit, or a superspace of smaller widths")
    for words in missed:
        log.write(f"No subnet of the best space is within {words}")
    log.write(f"Next: {command}")
    print(f"best space {best.individual}: {describe(best)}\nfiles in {folder}\nnext: {command}")
