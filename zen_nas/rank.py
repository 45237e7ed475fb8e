"""Rank correlation of training-free scores with the loss of block distillation, or with the accuracy of networks.

    python zen_nas/rank.py --superspace onnxw --zero_shot_score QE
    python zen_nas/rank.py --superspace mobilew --zero_shot_score Zen NASWOT ZiCo --aggregate --rows 4

Draws --rows rows of every published block table, scores them, and prints the correlation of each score with minus the
loss, as a mean over the stages: across block types, and within one table. Multiply-accumulates, parameters and latency
of the tables are always among the scores. --aggregate adds all scores by their ranks, as AZ-NAS does. Writes
<output>/rank_<superspace>.csv with every stage.

    python zen_nas/rank.py --superspace onnxw_tiny --supernet_choice 053412-000000 --num_subnets 50

Evaluates random subnets of a trained supernet, and ranks them by accuracy. <output>/accuracies_<supernet>.csv keeps the
accuracies of one checkpoint and one set of images.

    python zen_nas/rank.py --accuracies nets.csv --num_classes 10 --zero_shot_score Zen NASWOT

Ranks networks that were trained one by one: a csv file with columns network and acc1, or enc and acc1 with the
supernet's two options. Both write <output>/rank_accuracy.csv.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.training.arguments import SUPERNETS, Evaluation
from modules.utils.cli import make_parser, run
from modules.utils.files import REPOSITORY
from modules.utils.settings import PIXELS, TRAIN_BATCH, add_arguments, from_arguments, option

AGGREGATE = "aggregate"


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--superspace", "onnxw", "superspace of the tables, or of the supernet")
    option(parser, "--supernet_choice", "", "trained supernet whose subnets are evaluated; empty: block tables")
    option(parser, "--checkpoint_path", SUPERNETS, "its checkpoint, or the folder that holds <supernet>/lsq.pth")
    option(parser, "--fp32", False, "its checkpoint.pth, not lsq.pth")
    option(parser, "--num_subnets", 50, "random subnets of it", low=3)
    option(parser, "--accuracies", "", "csv file of networks and their accuracies", metavar="FILE")
    option(parser, "--num_classes", 1000, "classes of its networks; a supernet's are those of its checkpoint", low=1,
           high=10**6)
    option(parser, "--block_tables", REPOSITORY / "data" / "block_lut", "folder of <superspace>/, the tables")
    option(parser, "--zero_shot_score", ("Zen", "NASWOT", "QE"), "scores, as of zen_nas/score.py", many="+")
    option(parser, "--aggregate", False, "also all of them by their ranks")
    option(parser, "--rows", 8, "rows of each table; 0: all", low=0)
    option(parser, "--resolution", 160, "resolution of the images", **PIXELS)
    option(parser, "--batch_size", 16, "images per score", **TRAIN_BATCH)
    option(parser, "--output", "results/zen_nas", "folder of the table")
    add_arguments(parser, Evaluation)
    args = parser.parse_args(argv)
    if args.supernet_choice or args.accuracies:
        rank_networks(args)
    else:
        rank_tables(args)


def rank_tables(args):
    """Sub-stages against the losses of block distillation."""
    from modules.block_kd.lut.proxy_rank import COLUMNS, draw_substages, rankings, score_substages
    from modules.utils.results import write_rows
    from modules.zero_shot.scoring import check_proxy

    seed = from_arguments(Evaluation, args).seed
    rows = draw_substages(args.block_tables, args.superspace, args.resolution, args.rows, seed)
    proxies = dict.fromkeys((*COLUMNS, *map(check_proxy, args.zero_shot_score)))
    values = {proxy: score_substages(rows, proxy, args.batch_size, seed) for proxy in proxies}
    found = rankings(rows, values, AGGREGATE if args.aggregate else "")
    path = Path(args.output) / f"rank_{args.superspace}.csv"
    write_rows(path, [
        {"score": r.proxy, "stage": r.stage, "rows": r.rows, "across_kendall": f"{r.across[0]:.4f}",
         "across_spearman": f"{r.across[1]:.4f}", "within_kendall": f"{r.within[0]:.4f}",
         "within_spearman": f"{r.within[1]:.4f}"} for r in found])
    print(f"{len(rows)} sub-stages; correlation with minus the loss, mean of the stages (Kendall, Spearman)")
    for proxy in dict.fromkeys(r.proxy for r in found):
        pairs = [mean([getattr(r, side) for r in found if r.proxy == proxy]) for side in ("across", "within")]
        print(f"{proxy:12s} across block types {pairs[0]}, within a table {pairs[1]}")


def mean(pairs):
    """The mean of pairs as text; - if all are undefined, as for tables of one row."""
    import numpy as np

    defined = np.array(pairs)[np.isfinite(pairs).all(1)]
    return "{:.3f} {:.3f}".format(*defined.mean(0)) if len(defined) else "- -"


def rank_networks(args):
    """Networks against their accuracies."""
    from modules.search_space.config import SupernetConfig
    from modules.utils.results import write_rows
    from modules.zero_shot.accuracy_rank import rank_by_accuracy, read_accuracies
    from modules.zero_shot.scoring import check_proxy

    proxies = [check_proxy(proxy) for proxy in args.zero_shot_score]
    space = SupernetConfig.from_choice(args.superspace, args.supernet_choice) if args.supernet_choice else None
    seed = from_arguments(Evaluation, args).seed
    if args.accuracies:
        source, networks = args.accuracies, read_accuracies(args.accuracies, space, args.num_classes)
    else:
        source, networks = evaluate(args, space)
    found = rank_by_accuracy(networks, proxies, args.batch_size, seed, AGGREGATE if args.aggregate else "")
    path = Path(args.output) / "rank_accuracy.csv"
    write_rows(path, [{"score": proxy, "networks": len(networks), "kendall": f"{tau:.4f}", "spearman": f"{rho:.4f}"}
                      for proxy, (tau, rho) in found.items()])
    print(f"{len(networks)} networks of {source}; correlation with the accuracy (Kendall, Spearman)")
    for proxy, (tau, rho) in found.items():
        print(f"{proxy:12s} {tau:.3f} {rho:.3f}")


def evaluate(args, space):
    """The file with the accuracies of random subnets of a supernet, and the subnets with theirs."""
    from modules.modeling.restore import find_checkpoint
    from modules.training.arguments import make_evaluator
    from modules.zero_shot.accuracy_rank import evaluate_subnets

    checkpoint = find_checkpoint(args.checkpoint_path, space, not args.fp32)
    evaluator = make_evaluator(from_arguments(Evaluation, args), checkpoint, space, quant_mode=not args.fp32)
    path = Path(args.output) / f"accuracies_{space}.csv"
    return path, evaluate_subnets(evaluator, args.num_subnets, path)


if __name__ == "__main__":
    run(main)
