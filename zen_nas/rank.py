"""Rank correlation of training-free scores of sub-stages with the loss of block distillation.

    python zen_nas/rank.py --superspace onnxw --zero_shot_score QE
    python zen_nas/rank.py --superspace mobilew --zero_shot_score Zen NASWOT ZiCo --aggregate --rows 4

Draws --rows rows of every published block table, scores them, and prints the correlation of each score with minus the
loss, as a mean over the stages: across block types, and within one table. Multiply-accumulates, parameters and latency
of the tables are always among the scores. --aggregate adds all scores by their ranks, as AZ-NAS does. Writes
<output>/rank_<superspace>.csv with every stage.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import BATCH, PIXELS, SEED, option

AGGREGATE = "aggregate"


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--superspace", "onnxw", "superspace of the tables")
    option(parser, "--block_tables", "data/block_lut", "folder of <superspace>/, the tables")
    option(parser, "--zero_shot_score", ("Zen", "NASWOT", "QE"), "scores, as of zen_nas/score.py", many="+")
    option(parser, "--aggregate", False, "also all of them by their ranks")
    option(parser, "--rows", 8, "rows of each table; 0: all", low=0)
    option(parser, "--resolution", 160, "resolution of the images", **PIXELS)
    option(parser, "--batch_size", 16, "images per score", **BATCH)
    option(parser, "--output", "results/zen_nas", "folder of the table")
    SEED.add_to(parser, "--seed")
    args = parser.parse_args(argv)

    from modules.block_kd.lut.proxy_rank import COLUMNS, draw_substages, rankings, score_substages
    from modules.utils.results import append_rows
    from modules.zero_shot.scoring import check_proxy

    rows = draw_substages(args.block_tables, args.superspace, args.resolution, args.rows, args.seed)
    proxies = dict.fromkeys((*COLUMNS, *map(check_proxy, args.zero_shot_score)))
    values = {proxy: score_substages(rows, proxy, args.batch_size, args.seed) for proxy in proxies}
    found = rankings(rows, values, AGGREGATE if args.aggregate else "")
    path = Path(args.output) / f"rank_{args.superspace}.csv"
    path.unlink(missing_ok=True)
    append_rows(path, [
        {"score": r.proxy, "stage": r.stage, "rows": r.rows, "across_kendall": f"{r.across[0]:.4f}",
         "across_spearman": f"{r.across[1]:.4f}", "within_kendall": f"{r.within[0]:.4f}",
         "within_spearman": f"{r.within[1]:.4f}"} for r in found])
    print(f"{len(rows)} sub-stages; correlation with minus the loss, mean of the stages (Kendall, Spearman)")
    for proxy in dict.fromkeys(r.proxy for r in found):
        pairs = [mean([getattr(r, side) for r in found if r.proxy == proxy]) for side in ("across", "within")]
        print(f"{proxy:12s} across block types {pairs[0]}, within a table {pairs[1]}")


def mean(pairs):
    """The mean of pairs as text."""
    import numpy as np

    tau, rho = np.nanmean(np.array(pairs), 0)
    return f"{tau:.3f} {rho:.3f}"


if __name__ == "__main__":
    run(main)
