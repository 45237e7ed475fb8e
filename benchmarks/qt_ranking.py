"""Rank correlation between the Q-T score of search spaces and the accuracy of their supernets.

    OMP_NUM_THREADS=1 python benchmarks/qt_ranking.py --lut_path data/block_lut --latency_constraint 1.0

Random spaces that reach the limit are scored, and those at even quantiles of the score are taken. Their supernets are
trained briefly, and random subnets within the limit are evaluated. Kendall's tau compares the two orders. Accuracy is
the mean of the best quarter of the subnets on held-out training images. Writes qt_ranking.csv and qt_ranking.png.
"""
import csv
import sys
from dataclasses import MISSING
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.stats import kendalltau

from modules.block_kd.lut.tables import how_made
from modules.block_kd.space_search.scorer import Scoring, make_scorer
from modules.block_kd.space_search.spaces import Spaces
from modules.latency import get_platform
from modules.modeling.net_spec import resolve
from modules.search_space.subnet_space import SubnetSpace
from modules.training.config import TrainConfig, load_yaml
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.training.trainer import train
from modules.utils.cli import make_parser, run
from modules.utils.figures import new_figure, save_figure
from modules.utils.results import format_table
from modules.utils.settings import SEED, option

DRAWS = 3000


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--superspace", "onnxw_tiny", "superspace")
    option(parser, "--lut_path", "data/block_lut", "folder of block tables")
    option(parser, "--latency_constraint", MISSING, "latency limit, on the tables' platform", kind=float, above=0,
           unit="ms")
    option(parser, "--spaces", 10, "spaces that are trained", low=2)
    option(parser, "--candidates", 2000, "random spaces that are scored", low=2)
    option(parser, "--subnets", 16, "subnets evaluated per space", low=1)
    option(parser, "--config-file", "supernet_training_configs/digits.yaml", "yaml file of the training")
    option(parser, "--epochs", 3, "epochs", low=1)
    SEED.add_to(parser, "--seed")
    option(parser, "--models_save_dir", "checkpoints/qt_ranking", "folder of the checkpoints")
    option(parser, "--output", "benchmarks/figures", "folder of table and figure")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    platform_name, resolutions = how_made(args.lut_path, args.superspace)
    scorer = make_scorer(Scoring(
        superspace=args.superspace, platform=platform_name, lut_path=args.lut_path, limits=(args.latency_constraint,),
        t=0.08, a=0.01, estimator="exact", width_coupling="independent", other_stages="smallest",
        resolutions=resolutions, seed=args.seed))
    chosen = choose(scorer, args)
    platform, rows = get_platform(platform_name), []
    for config, score in chosen:
        training = TrainConfig(**load_yaml(args.config_file) | {
            "epochs": args.epochs, "resolutions": resolutions, "models_save_dir": args.models_save_dir,
            "seed": args.seed, "valid_freq": args.epochs})
        folder = train(training, config, overwrite=True)
        evaluator = SubnetEvaluator.open(folder / "checkpoint.pth", config, quant_mode=False, valid_size=None,
                                         calibration_batches=5, batch_size=64)
        accuracies = np.sort([evaluator.accuracy(s).top1 for s in feasible(config, resolutions, platform, args)])[::-1]
        best = accuracies[: max(len(accuracies) // 4, 1)]
        rows.append({"space": config.choice, "score": f"{score:.4f}", "subnets": len(accuracies),
                     "best quarter, %": f"{best.mean():.2f}", "all, %": f"{accuracies.mean():.2f}"})
        print(rows[-1], flush=True)
    report(rows, args)


def choose(scorer, args):
    """(space, score) at even quantiles of the score, from random spaces that reach the limit."""
    rng, spaces = np.random.default_rng(args.seed), Spaces(args.superspace)
    drawn = {spaces.random(rng) for _ in range(args.candidates)}
    scored = sorted(((scorer(c).score, str(c), c) for c in drawn), key=lambda entry: entry[:2])
    scored = [entry for entry in scored if entry[0] > 0.01]
    picks = np.linspace(0, len(scored) - 1, args.spaces).round().astype(int)
    return [(scored[i][2], scored[i][0]) for i in picks]


def feasible(config, resolutions, platform, args):
    """Random subnets within the limit."""
    rng, space, found = np.random.default_rng(args.seed), SubnetSpace(config, resolutions), {}
    for _ in range(DRAWS):
        choice = space.sample(rng)
        if platform.predict_subnet(resolve(config, choice, 10)) <= args.latency_constraint:
            found[choice] = None
        if len(found) == args.subnets:
            break
    return list(found) or [space.extreme(min)]


def report(rows, args):
    """Table, tau, figure."""
    scores = [float(row["score"]) for row in rows]
    folder = Path(args.output)
    with open(folder / "qt_ranking.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    figure = new_figure(9, 4)
    for axes, name in zip(figure.subplots(1, 2), ("best quarter, %", "all, %"), strict=True):
        values = [float(row[name]) for row in rows]
        tau, p = kendalltau(scores, values)
        print(f"Kendall tau between score and accuracy ({name}): {tau:.2f} (p {p:.3f}, {len(rows)} spaces)")
        axes.plot(scores, values, "o")
        axes.set(xlabel="Q-T score", ylabel=f"top-1 of subnets within {args.latency_constraint:g} ms: {name}",
                 title=f"Kendall tau {tau:.2f}")
        axes.grid(alpha=0.3)
    save_figure(figure, folder / "qt_ranking.png")
    print(format_table(rows))


if __name__ == "__main__":
    run(main)
