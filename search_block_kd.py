"""Search for the best search space under latency limits, from block tables (step 4 of the pipeline).

    python search_block_kd.py --superspace onnxw --platform onnx_lut --latency_constraint 10 --latency_loss_t 0.08

scores 5,000 spaces by their Q-T score and writes to <output_dir>/<superspace>/c10_t0.08_a0.01:
output.log, spaces.csv (every scored space), top50.csv, figures, and state.json for --resume.

To score given spaces instead (scores.csv and cdf/<choice>.png):

    python search_block_kd.py --superspace onnxw --platform onnx_lut --latency_constraint 10 --latency_loss_t 0.08 \\
        --supernet_choices 151122-023231 131121-022130

Further limits hold beside the latency limit, or without one:

    python search_block_kd.py --superspace onnxw --platform onnx_lut --max_mflops 300 --max_memory_mb 7

The tables are read from <lut_path>/<superspace>/<stage>_<block>_<window>.csv; eval_block_kd.py writes them.
"""
from dataclasses import MISSING
from pathlib import Path

from modules.block_kd.space_search.scorer import Scoring, score_choices
from modules.block_kd.space_search.search import Evolution, search_space
from modules.search.limits import SizeLimits
from modules.utils.cli import add_run_arguments, make_parser, run, say_unused
from modules.utils.files import REPOSITORY
from modules.utils.settings import add_arguments, from_arguments, option, settings_of


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--superspace", MISSING, "superspace, such as onnxw, mobilew, onnxw_tiny", kind=str)
    option(parser, "--platform", "", "device the block tables were made for: onnx_lut or tflite27_cpu_int8 for "
           "published ones; tables of eval_block_kd.py know their device")
    option(parser, "--lut_path", REPOSITORY / "data" / "block_lut", "folder of block tables; /<superspace> is appended")
    option(parser, "--output_dir", Path("checkpoints/block_kd/search"),
           "folder of all files; /<superspace>/<limits> is appended")
    option(parser, "--supernet_choices", (), "spaces to score instead of searching, such as 151122-023231", kind=str,
           many="*", metavar="CHOICE")
    add_arguments(parser, Scoring)
    add_arguments(parser, SizeLimits)
    add_arguments(parser, Evolution)
    add_run_arguments(parser, "search")
    args = parser.parse_args(argv)

    from modules.block_kd.lut.tables import how_made

    platform, resolutions = how_made(args.lut_path, args.superspace, args.platform, args.hw_list or ())
    args.hw_list = resolutions
    scoring = from_arguments(Scoring, args, superspace=args.superspace, platform=platform, lut_path=str(args.lut_path),
                             sizes=from_arguments(SizeLimits, args))
    folder = args.output_dir / args.superspace / scoring.label
    if args.supernet_choices:
        say_unused(args, parser, (*settings_of(Evolution), "resume", "overwrite"),
                   "with --supernet_choices, which scores these spaces alone, and anew")
        score_choices(scoring, args.supernet_choices, folder)
        return

    sizes = from_arguments(Evolution, args)
    search_space(scoring, sizes, folder, args.resume, args.overwrite)


if __name__ == "__main__":
    run(main)
