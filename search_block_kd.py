"""Search for the best search space under latency limits, from block tables (step 4 of the pipeline).

    python search_block_kd.py --superspace onnxw --platform onnx_lut --latency_constraint 10 --latency_loss_t 0.08

scores 5,000 spaces by their Q-T score and writes to <output_dir>/<superspace>/c10_t0.08_a0.01:
output.log, spaces.csv (every scored space), top50.csv, figures, and state.json, from which --resume continues.

To score given spaces instead (scores.csv and cdf/<choice>.png):

    python search_block_kd.py --superspace onnxw --platform onnx_lut --latency_constraint 10 --latency_loss_t 0.08 \\
        --supernet_choices 151122-023231 131121-022130

The tables are read from <lut_path>/<superspace>/<stage>_<block>_<window>.csv; eval_block_kd.py writes them.
"""
from pathlib import Path

from modules.utils.cli import make_parser, run
from modules.utils.files import REPOSITORY


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--superspace", required=True, help="such as onnxw, mobilew, onnxw_tiny")
    parser.add_argument("--platform", default="",
                        help="device the block tables were made for: onnx_lut or tflite27_cpu_int8 for published ones; "
                             "tables that eval_block_kd.py wrote say it themselves")
    parser.add_argument("--latency_constraint", type=float, nargs="+", required=True, metavar="MS",
                        help="latency limits in ms; the scores under several are added up")
    parser.add_argument("--latency_loss_t", type=float, default=0.1, help="share of subnets wanted within the limit")
    parser.add_argument("--latency_loss_a", type=float, default=0.01, help="weight of falling short of that share")
    parser.add_argument("--lut_path", default=REPOSITORY / "data" / "block_lut", type=Path,
                        help="folder of block tables; /<superspace> is appended")
    parser.add_argument("--output_dir", default=REPOSITORY / "checkpoints" / "block_kd" / "search", type=Path)
    parser.add_argument("--supernet_choices", nargs="*", default=[], metavar="CHOICE",
                        help="score these spaces, such as 151122-023231, instead of searching")
    parser.add_argument("--hw_list", type=int, nargs="+", default=[], metavar="PIXELS",
                        help="resolutions of the tables; default: what they say, or the superspace's")
    parser.add_argument("--estimator", default="sample", help="sample: draw 100,000 subnets; exact: compute their law")
    parser.add_argument("--width_coupling", default="independent",
                        help="independent: combine any rows; chained: only rows whose widths meet")
    parser.add_argument("--other_stages", default="smallest",
                        help="smallest: the stages that are not searched are as small as they get; sampled: drawn too")
    parser.add_argument("--population_size", type=int, default=500)
    parser.add_argument("--parent_size", type=int, default=125, help="individuals compared for each parent")
    parser.add_argument("--cycles", type=int, default=5000, help="spaces scored in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue a search that was killed")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where there is a search already")
    args = parser.parse_args()

    from modules.block_kd.lut.tables import how_made
    from modules.block_kd.space_search.scorer import Scoring, score_choices

    platform, resolutions = how_made(args.lut_path, args.superspace, args.platform, args.hw_list)
    scoring = Scoring(
        superspace=args.superspace, platform=platform, lut_path=str(args.lut_path),
        limits=tuple(args.latency_constraint), t=args.latency_loss_t, a=args.latency_loss_a,
        estimator=args.estimator, width_coupling=args.width_coupling,
        other_stages=args.other_stages, resolutions=resolutions, seed=args.seed)
    limits = "+".join(f"{limit:g}" for limit in scoring.limits)
    folder = args.output_dir / args.superspace / f"c{limits}_t{scoring.t:g}_a{scoring.a:g}"
    if args.supernet_choices:
        score_choices(scoring, args.supernet_choices, folder)
        return

    from modules.block_kd.space_search.search import Evolution, search_space

    sizes = Evolution(args.population_size, args.parent_size, args.cycles)
    search_space(scoring, sizes, folder, args.resume, args.overwrite)


if __name__ == "__main__":
    run(main)
