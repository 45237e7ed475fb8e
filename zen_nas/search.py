"""Search for a network by a zero-shot score, within limits of size, operations, depth or latency. No images, no
training.

    python zen_nas/search.py --space cifar --budget_model_size 5e5 --max_layers 16 --evolution_max_iter 2000
    python zen_nas/search.py --preset flops_400M
    python zen_nas/search.py --space latency --budget_latency 5 --platform onnxruntime_int8 --max_layers 16 \\
        --measure_best 5

A preset is a published search: space, budget, depth and batch. A limit that is given takes the place of its own; the
others stay. Without --preset and a limit, a search has the budget of its space's first preset. Published latencies are
of a V100 in fp16 at batch 64, per image.

Limits hold for the whole network with its shortcuts. --budget_flops and --budget_model_size are counted as published,
--max_mflops, --max_params, --max_file_mb and --max_memory_mb as in the other searches. Latency is the platform's
prediction for int8 at batch 1 in ms; for an extrapolation the upper end of its interval counts. With
--measure_best the best structures are measured at the end, and the best one within the limit is the result. Where none
is, predictions are corrected by the measurements, and the search goes on. Writes
<save_dir>/best_structure.txt, scores.csv (all scored structures), measured.csv, search.png, search.log, and state.json
for --resume.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import option
from modules.zero_shot.arguments import PROXIES, add_search_arguments, given_limits, run_search


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--preset", "", "published search: cifar_1M, cifar_2M, flops_400M, flops_600M, flops_800M, "
           "latency_0.1ms ... latency_1.2ms", shown="none")
    option(parser, "--space", "", "blocks and start: cifar, flops or latency of the published searches, or a yaml file",
           shown="the preset's, or cifar")
    option(parser, "--random_start", False, "the first structures are random, not mutated from the start")
    option(parser, "--init_structure", "", "structure string or file to start from", shown="the space's")
    option(parser, "--origin", False, "widths change one by one, as in Zen-NAS; otherwise output and hidden width "
           "together")
    option(parser, "--zero_shot_score", "Zen", f"score: {PROXIES}")
    add_search_arguments(parser, latency_unit="ms", batch="16, 64 in a preset")
    args = parser.parse_args(argv)

    from dataclasses import replace

    from modules.search_space.networks.structure import read_structure
    from modules.search_space.networks.zen_space import PRESETS, first_preset, read_space
    from modules.utils.errors import check_choice

    preset = PRESETS[check_choice(args.preset, PRESETS, "preset (--preset)")] if args.preset else None
    name = args.space or (preset.space if preset else "cifar")
    space = replace(read_space(name), origin=args.origin)
    if args.init_structure:
        space = replace(space, start=str(read_structure(args.init_structure)))
    limits = given_limits(args, space, preset, first_preset(name))
    run_search(args, space, read_structure(space.start), limits, proxy=args.zero_shot_score,
               batch=preset.batch_size if preset else 16, random_start=args.random_start)


if __name__ == "__main__":
    run(main)
