"""Structures scored per second in a search: one at a time, and by worker processes, in one run.

    python benchmarks/bench_zero_shot.py --workers 1 2

One at a time is the plain form: a structure is bred, its network is built, scored and dropped, by torch with all its
threads. The others breed --children structures from one population, which workers score side by side on one thread
each (zen_nas/search.py --children --workers). All forms score --structures structures within the same limits, in turns:
a drifting machine treats them alike. Searches with any number of workers score the same ones. The start of the workers,
once in a search, does not count. Prints medians and their ratios, and whether the scores of all workers are equal.
"""
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zen_space import SPACES
from modules.utils.cli import make_parser, run
from modules.utils.results import format_table
from modules.utils.settings import BATCH, SEED, option
from modules.zero_shot.search import Limits, ZenSearch

PLAIN = "one at a time"


def make_search(args, children: int, workers: int) -> ZenSearch:
    """A search of the options."""
    space = SPACES[args.space]
    return ZenSearch(space, Structure.parse(space.start), Limits(space.max_layers, args.budget_model_size),
                     proxy=args.zero_shot_score, batch=args.batch_size, classes=space.classes,
                     resolution=space.resolution, population_size=args.structures, seed=args.seed, children=children,
                     workers=workers)


def timed(search: ZenSearch, children: int, count: int) -> tuple[float, dict[Structure, float]]:
    """Structures per second over `count` of them, which follow a first generation; and all scores."""
    for _ in search.evolution.run(sys.maxsize, children):
        pass
    start = time.perf_counter()
    for _ in search.evolution.run(sys.maxsize, children + count):
        pass
    seconds = time.perf_counter() - start
    if search.pool:
        search.pool.close()
    return count / seconds, {entry.individual: entry.fitness for entry in search.history.entries}


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--space", "cifar", "space", choices=tuple(SPACES))
    option(parser, "--zero_shot_score", "Zen", "score, as of zen_nas/score.py")
    option(parser, "--budget_model_size", 1e6, "most parameters", above=0, unit="parameters")
    option(parser, "--structures", 128, "structures of a search", low=1)
    option(parser, "--children", 16, "structures from one population", low=2)
    option(parser, "--batch_size", 16, "images per score", **BATCH)
    option(parser, "--workers", (1, 2), "numbers of worker processes", kind=int, many="+", low=1, high=256)
    option(parser, "--repeats", 5, "rounds", low=1)
    SEED.add_to(parser, "--seed")
    args = parser.parse_args(argv)

    forms = {PLAIN: (1, 0), **{f"workers: {count}": (args.children, count) for count in args.workers}}
    speeds, scores = {name: [] for name in forms}, []
    for _ in range(args.repeats):
        for name, (children, workers) in forms.items():
            speed, found = timed(make_search(args, children, workers), children, args.structures)
            speeds[name].append(speed)
            if workers:
                scores.append(found)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    first = medians[f"workers: {args.workers[0]}"]
    print(format_table([{
        "form": name, "structures per second": f"{median:.2f}", f"against {PLAIN}": f"{median / medians[PLAIN]:.2f}",
        f"against workers: {args.workers[0]}": f"{median / first:.2f}"} for name, median in medians.items()]))
    print(f"structures and scores of all workers are {'' if all(s == scores[0] for s in scores) else 'NOT '}equal")


if __name__ == "__main__":
    run(main)
