"""Structures scored per second: one at a time, and by worker processes, in one run.

    python benchmarks/bench_zero_shot.py --workers 1 2

One at a time is the plain form: a structure is proposed, its network is built, scored and dropped, by torch with all
its threads. Workers score --children structures of a population side by side on one thread each, as zen_nas/search.py
does with --workers and --children. All score the same structures, in turns: a drifting machine treats them alike. The
start of the workers, once in a search, does not count. Prints medians, their ratios, and whether the scores are equal.
"""
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zen_space import SPACES, ZenSpace
from modules.utils.cli import make_parser, run
from modules.utils.results import format_table
from modules.utils.settings import BATCH, SEED, option
from modules.zero_shot.pool import ScorePool
from modules.zero_shot.search import Limits, ZenSearch, score_structure

PLAIN = "one at a time"


def draw_structures(space: ZenSpace, limits: Limits, count: int, seed: int) -> list[Structure]:
    """Different structures within the limits, each a mutation of an earlier one."""
    start, rng = Structure.parse(space.start), np.random.default_rng(seed)
    search = ZenSearch(space, start, limits, proxy="QE", batch=2, classes=space.classes, resolution=space.resolution,
                       population_size=1, seed=seed)
    found = [start]
    while len(found) < count:
        child = space.mutate(found[rng.integers(len(found))], rng)
        if child not in found and search.accepts(child):
            found.append(child)
    return found


def in_generations(pool: ScorePool, structures: list[Structure], children: int) -> list[float]:
    """The scores; a generation begins when the one before has ended, as in a search."""
    parts = (structures[first:first + children] for first in range(0, len(structures), children))
    return [score for part in parts for score in pool(part)]


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--space", "cifar", "space", choices=tuple(SPACES))
    option(parser, "--zero_shot_score", "Zen", "score, as of zen_nas/score.py")
    option(parser, "--budget_model_size", 1e6, "most parameters", above=0, unit="parameters")
    option(parser, "--structures", 64, "structures", low=1)
    option(parser, "--children", 16, "structures of a generation", low=1)
    option(parser, "--batch_size", 16, "images per score", **BATCH)
    option(parser, "--workers", (1, 2), "numbers of worker processes", kind=int, many="+", low=1, high=256)
    option(parser, "--repeats", 5, "rounds", low=1)
    SEED.add_to(parser, "--seed")
    args = parser.parse_args(argv)

    space = SPACES[args.space]
    structures = draw_structures(space, Limits(space.max_layers, args.budget_model_size), args.structures, args.seed)
    score = partial(score_structure, proxy=args.zero_shot_score, batch=args.batch_size, classes=space.classes,
                    resolution=space.resolution, seed=args.seed)
    pools = {f"workers: {count}": ScorePool(score, count) for count in args.workers}
    forms = {PLAIN: lambda: list(map(score, structures)),
             **{name: partial(in_generations, pool, structures, args.children) for name, pool in pools.items()}}
    seconds, scores = {name: [] for name in forms}, {name: form() for name, form in forms.items()}
    for _ in range(args.repeats):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            seconds[name].append(time.perf_counter() - start)
    for pool in pools.values():
        pool.close()

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(pools))
    print(format_table([{
        "form": name, "structures per second": f"{len(structures) / median:.2f}",
        f"against {PLAIN}": f"{medians[PLAIN] / median:.2f}", f"against {first}": f"{medians[first] / median:.2f}"}
        for name, median in medians.items()]))
    pooled = [scores[name] for name in pools]
    print(f"scores of all numbers of workers are {'equal' if all(s == pooled[0] for s in pooled) else 'NOT EQUAL'}")


if __name__ == "__main__":
    run(main)
