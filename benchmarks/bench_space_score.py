"""Spaces scored per second by the Q-T score's estimators, against a plain formulation, in one run.

    python benchmarks/bench_space_score.py

The plain formulation is that of the published program: numpy draws row numbers for each chunk; lists and dicts of the
100,000 subnets follow, sorted twice. It and both estimators take turns: a drifting machine treats them alike. Prints
medians and minima of the time per space, and the ratios of the medians. Whole searches of 5,000 spaces follow, and for
the sampled scores the spread over seeds of one score and of the difference between two neighbours.
"""
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from modules.block_kd.score.quality import CHUNK_SIZE, CHUNKS, DRAWS, Target  # noqa: E402
from modules.block_kd.score.sample import SampleEstimator  # noqa: E402
from modules.block_kd.space_search.scorer import Scoring, make_scorer  # noqa: E402
from modules.block_kd.space_search.search import Evolution, search_space  # noqa: E402
from modules.block_kd.space_search.spaces import Spaces  # noqa: E402
from modules.search_space.config import SupernetConfig  # noqa: E402
from modules.utils.cli import make_parser, run  # noqa: E402
from modules.utils.settings import option  # noqa: E402


def plain_score(stages, others, target: Target, rng: np.random.Generator) -> float:
    """The score by the published program's method. `stages[s][r]` is a list of (loss, latency) rows."""
    subnets = []
    for _ in range(CHUNKS):
        r = rng.integers(len(others))
        columns = [[stage[r][i] for i in rng.integers(len(stage[r]), size=CHUNK_SIZE)] for stage in stages]
        for picks in zip(*columns, strict=True):
            subnets.append({"loss": sum(p[0] for p in picks), "latency": sum(p[1] for p in picks) + others[r]})
    subnets.sort(key=lambda subnet: subnet["latency"])
    feasible = [subnet for subnet in subnets if subnet["latency"] <= target.limit]
    feasible.sort(key=lambda subnet: subnet["loss"])
    share = len(feasible) / DRAWS + 1e-5
    top = [subnet["loss"] for subnet in feasible[:50]]
    top_loss = sum(top) / (len(top) + 1e-5) if top else 1e5
    return 1 / (max(1, (target.t / share) ** target.a) * top_loss)


def neighbours(start: SupernetConfig, count: int, seed: int) -> list[SupernetConfig]:
    """A walk of mutations, as in a search."""
    rng, walk, moves = np.random.default_rng(seed), [start], Spaces(start.superspace)
    while len(walk) < count:
        parent = walk[rng.integers(max(0, len(walk) - 20), len(walk))]
        walk.append(moves.mutate_block(parent, rng) if rng.random() < 0.5 else moves.mutate_window(parent, rng))
    return walk


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--lut_path", REPOSITORY / "data" / "block_lut", "folder of block tables")
    option(parser, "--superspace", "onnxw", "superspace")
    option(parser, "--platform", "onnx_lut", "platform of the tables")
    option(parser, "--latency_constraint", 10.0, "latency limit", above=0, unit="ms")
    option(parser, "--rounds", 8, "turns; each scores 1 space plainly and 40 per estimator", low=1)
    option(parser, "--cycles", 5000, "spaces per search; 0 leaves the searches out", low=0)
    args = parser.parse_args(argv)

    scorings = {name: Scoring(args.superspace, args.platform, str(args.lut_path), (args.latency_constraint,), 0.08,
                              0.01, name) for name in ("sample", "exact")}
    scorers = {name: make_scorer(scoring) for name, scoring in scorings.items()}
    tables, others = scorers["sample"].tables, scorers["sample"].others
    count = len(tables.stages)
    start = SupernetConfig.from_choice(args.superspace, "1" * count)
    spaces, target = neighbours(start, 41 * args.rounds, 0), Target(args.latency_constraint, 0.08, 0.01)
    seconds = {"plain": [], "sample": [], "exact": []}
    for turn in range(args.rounds):
        part = spaces[41 * turn:41 * (turn + 1)]
        rows = [[list(zip(r.loss.tolist(), r.latency.tolist(), strict=True)) for r in stage]
                for stage in tables.of(part[0])]
        begin = time.perf_counter()
        plain_score(rows, [float(other[0]) for other in others], target, np.random.default_rng(turn))
        seconds["plain"].append(time.perf_counter() - begin)
        for name, scorer in scorers.items():
            begin = time.perf_counter()
            for space in part[1:]:
                scorer(space)
            seconds[name].append((time.perf_counter() - begin) / (len(part) - 1))
    for name, values in seconds.items():
        ratio = np.median(seconds["plain"]) / np.median(values)
        print(f"{name:7s} median {1e3 * np.median(values):8.2f} ms, minimum {1e3 * min(values):8.2f} ms per space: "
              f"{1 / np.median(values):7.1f} spaces/s, {ratio:6.1f} x plain")

    if args.cycles:
        for name, scoring in scorings.items():
            with tempfile.TemporaryDirectory() as folder:
                begin, cpu = time.perf_counter(), time.process_time()
                search_space(scoring, Evolution(cycles=args.cycles), Path(folder))
                print(f"search of {args.cycles} spaces, {name}: {time.perf_counter() - begin:.1f} s "
                      f"({time.process_time() - cpu:.1f} s of the processor), tables, log and figures included")

    mutant = Spaces(args.superspace).mutate_window(spaces[-1], np.random.default_rng(1))
    first, second = spaces[-1], mutant or spaces[-2]
    pairs = np.array([[e(first).score, e(second).score] for e in
                      (SampleEstimator(tables, others, target, seed=(8, s)) for s in range(40))])
    print(f"sample, 40 seeds: standard deviation of one score {pairs[:, 0].std():.5f}, of the difference of two "
          f"neighbours {np.diff(pairs).std():.5f} (independent draws: {np.hypot(*pairs.std(axis=0)):.5f})")


if __name__ == "__main__":
    run(main)
