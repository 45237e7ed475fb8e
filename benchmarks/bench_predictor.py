"""Evaluations that a subnet search needs to match 400 of random search: with and without a predictor, and with a
training-free score as a filter before the evaluation.

    python benchmarks/bench_predictor.py
    python benchmarks/bench_predictor.py --prefilter Params NASWOT

No network is trained. The fitness of a subnet is the sum of the published INT8 losses of its stages. A subnet is one
row of the block table of each stage, all at one resolution and of any input width, as in the Q-T score. Its latency is
that of platform onnx_lut. The losses were measured on ImageNet: they have real noise.
"""
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.block_kd.lut.tables import load_tables
from modules.latency import get_platform
from modules.modeling.net_spec import stage_choice
from modules.search.generations import GenerationSizes
from modules.search.subnet.proposals import Proposer
from modules.search.subnet.search import FILES, SubnetSearch
from modules.search.subnet.settings import SearchSettings
from modules.search.subnet.state import SearchState
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.evaluation import Accuracy
from modules.utils.cli import make_parser, run
from modules.utils.files import REPOSITORY
from modules.utils.results import format_table
from modules.utils.runs import Run
from modules.utils.settings import PIXELS, option
from modules.zero_shot.subnet_scores import BATCH, SubnetScores

RESOLUTIONS = (160, 192, 224)  # of the published tables
WAYS = {"random": {"method": "random"}, "evolution": {}, "pareto": {"survival": "pareto"},
        "predictor": {"predictor": "lightgbm"},
        "predictor, random": {"method": "random", "predictor": "lightgbm"}}


class RowSubnets:
    """The subnets made of rows of block tables, with the functions of `SubnetSpace` for a search."""

    def __init__(self, config: SupernetConfig, resolution: int):
        self.config, self.resolutions = config, (resolution,)
        whole = SubnetSpace(config, self.resolutions)
        self.stages, fixed = whole.stages, whole.extreme(min).stages
        tables = load_tables(REPOSITORY / "data" / "block_lut", config.superspace, RESOLUTIONS, [config])
        self.losses = [{} for _ in self.stages]
        searched = {stage.name: rows[RESOLUTIONS.index(resolution)]
                    for stage, rows in zip(config.space.searched, tables.of(config), strict=True)}
        for known, options, smallest in zip(self.losses, self.stages, fixed, strict=True):
            if options.name not in searched:
                known[smallest] = 0.0
                continue
            rows = searched[options.name]
            for encoding, loss in zip(rows.encodings, rows.loss, strict=True):
                known.setdefault(stage_choice(config, options.name, encoding)[1], loss)
        self.rows = [list(known) for known in self.losses]

    def loss(self, choice: SubnetChoiceConfig) -> float:
        """The sum over its stages."""
        return sum(known[blocks] for known, blocks in zip(self.losses, choice.stages, strict=True))

    def sample(self, rng) -> SubnetChoiceConfig:
        return self._subnet(rows[rng.integers(len(rows))] for rows in self.rows)

    def mutate(self, choice, rng, arch_prob, resolution_prob) -> SubnetChoiceConfig:
        return self._subnet(rows[rng.integers(len(rows))] if rng.uniform() < arch_prob else blocks
                            for rows, blocks in zip(self.rows, choice.stages, strict=True))

    def crossover(self, a, b, rng) -> SubnetChoiceConfig:
        return self._subnet(pair[rng.integers(2)] for pair in zip(a.stages, b.stages, strict=True))

    def extreme(self, end) -> SubnetChoiceConfig:
        """By the sum of the widths of a stage's blocks."""
        return self._subnet(end(rows, key=lambda blocks: sum(b.width for b in blocks)) for rows in self.rows)

    def _subnet(self, stages) -> SubnetChoiceConfig:
        return SubnetChoiceConfig(tuple(stages), self.resolutions[0])


def search(subnets: RowSubnets, platform, limit: float, evaluations: int, seed: int, start: int, **changes) -> list:
    """The losses of the subnets in the order of evaluation."""
    sizes = GenerationSizes(start, mutation_size=5, crossover_size=5)
    settings = SearchSettings((limit,), limit, sizes=sizes, rounds=evaluations, max_evaluations=evaluations, seed=seed,
                              **changes)
    score = SubnetScores(subnets.config, 1000, settings.prefilter, BATCH, seed) if settings.prefilter else None
    with tempfile.TemporaryDirectory() as folder:
        with Run(Path(folder) / "state.json", files=FILES, resume=False, overwrite=False, option="") as opened:
            state = SearchState(opened, settings.identity)
        proposer = Proposer(subnets, {"onnx_lut": platform}, 1000, settings, score=score)
        found = SubnetSearch(proposer, lambda asked, test=False: (
            Accuracy(100 - 10 * subnets.loss(choice), 100.0, 1.0, 10_000) for choice in asked), state)
        found.start()
        return [subnets.loss(subnet.proposal.choice) for subnet in found.run()]


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--supernet_choice", "151122-023231", "space of onnxw")
    option(parser, "--resolution", 224, "resolution of all subnets", choices=RESOLUTIONS, **PIXELS)
    option(parser, "--latency_constraint", 0.0, "latency limit; 0: the median of 200 random subnets", low=0, unit="ms")
    option(parser, "--random_evaluations", 400, "evaluations of the random search", low=2)
    option(parser, "--evaluations", 100, "evaluations of the others", low=2)
    option(parser, "--start", 30, "random subnets that the others start with", low=2)
    option(parser, "--prefilter", ("Params", "Flops"), "scores that filter what evolution evaluates", kind=str,
           many="*")
    option(parser, "--seeds", (0, 1, 2), "seeds", many="+", low=0)
    args = parser.parse_args(argv)

    subnets = RowSubnets(SupernetConfig.from_choice("onnxw", args.supernet_choice), args.resolution)
    platform, rng = get_platform("onnx_lut"), np.random.default_rng(0)
    probe = Proposer(subnets, {"onnx_lut": platform}, 1000, SearchSettings((1.0,)))
    limit = args.latency_constraint or float(np.median([probe.latency(subnets.sample(rng)).ms[0] for _ in range(200)]))
    rows, to_reach = [], {}
    ways = WAYS | {f"evolution, {name} first": {"prefilter": name} for name in args.prefilter}
    for name, changes in ways.items():
        figures = []
        for seed in args.seeds:
            start, count = time.monotonic(), args.random_evaluations if name == "random" else args.evaluations
            losses = search(subnets, platform, limit, count, seed, args.start, **changes)
            best = np.minimum.accumulate(losses)
            reached = np.flatnonzero(best <= to_reach.setdefault(seed, best[-1]))  # random search comes first
            figures.append((best[-1], int(reached[0]) + 1 if len(reached) else None, time.monotonic() - start))
        rows.append({"search": name, "evaluations": count,
                     "smallest loss": " ".join(f"{f[0]:.4f}" for f in figures),
                     "evaluations for random's best": " ".join(str(f[1] or f"> {count}") for f in figures),
                     "seconds": f"{statistics.mean(f[2] for f in figures):.1f}"})
    print(f"{subnets.config} at {args.resolution} pixels within {limit:.2f} ms, seeds {' '.join(map(str, args.seeds))}")
    print(format_table(rows))


if __name__ == "__main__":
    run(main)
