"""Search for a network by a zero-shot score, within limits of size, operations, depth or latency. No images, no
training.

    python zen_nas/search.py --space cifar --budget_model_size 5e5 --max_layers 16 --evolution_max_iter 2000
    python zen_nas/search.py --preset flops_400M
    python zen_nas/search.py --space latency --budget_latency 5 --platform onnxruntime_int8 --max_layers 16 \\
        --measure_best 5

A preset is a published search: space, budget, depth and batch. Without --preset and a budget, a search has the budget
of its space's first preset. Published latencies are of a V100 in fp16 at batch 64, per image.

Limits hold for the whole network with its shortcuts. --budget_flops and --budget_model_size are counted as published,
--max_mflops, --max_params, --max_file_mb and --max_memory_mb as in the other searches. Latency is the platform's
prediction for int8 at batch 1 in ms; for an extrapolation the upper end of its interval counts. With
--measure_best the best structures are measured at the end, and the best one within the limit is the result. Writes
<save_dir>/best_structure.txt, scores.csv (all scored structures), measured.csv, search.png, search.log, and state.json
for --resume.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.search.limits import SizeLimits
from modules.search.measured import MEASURE_BEST
from modules.utils.cli import add_run_arguments, make_parser, run
from modules.utils.settings import BATCH, PIXELS, SEED, add_arguments, from_arguments, option

PROXIES = "Zen, NASWOT, GradNorm, Syncflow, NTK, RN, TE-NAS, ZiCo, QE, Flops, Params, Latency:PLATFORM or Random"


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
    option(parser, "--evolution_max_iter", 480000, "mutations; most are refused", low=1)
    option(parser, "--max_evaluations", None, "scored structures after which the search stops", kind=int, low=1,
           shown="never")
    option(parser, "--children", 1, "structures from one population; --workers score them side by side", low=1,
           high=4096)
    option(parser, "--workers", 0, "processes that score; 0: the script itself. The result is the same for any number",
           low=0, high=256)
    option(parser, "--population_size", 512, "structures that are alive", low=1)
    option(parser, "--budget_model_size", None, "most parameters", kind=float, above=0, unit="parameters", shown="any")
    option(parser, "--budget_flops", None, "most multiply-accumulates", kind=float, above=0, unit="MACs", shown="any")
    option(parser, "--budget_latency", None, "highest latency", kind=float, above=0, unit="ms", shown="any")
    option(parser, "--platform", "", "device of --budget_latency, such as onnxruntime_int8")
    option(parser, "--latency_confidence", 0.9, "probability with which a network keeps --budget_latency where the "
           "platform's model extrapolates; 0: as predicted", low=0, below=1)
    option(parser, "--measure_best", 0, MEASURE_BEST, low=0)
    add_arguments(parser, SizeLimits)
    option(parser, "--max_layers", None, "most layers", kind=int, low=1, shown="the space's")
    option(parser, "--input_image_size", None, "image size", kind=int, shown="the space's", **PIXELS)
    option(parser, "--num_classes", None, "classes", kind=int, low=1, high=10**6, shown="the space's")
    option(parser, "--batch_size", None, "images per score", kind=int, shown="16, 64 in a preset", **BATCH)
    SEED.add_to(parser, "--seed")
    option(parser, "--save_dir", "results/zen_nas", "folder of all files")
    add_run_arguments(parser, "search")
    args = parser.parse_args(argv)

    from dataclasses import replace

    from modules.search_space.networks.structure import read_structure
    from modules.search_space.networks.zen_space import PRESETS, first_preset, read_space
    from modules.utils.errors import check_choice
    from modules.zero_shot.scoring import check_proxy
    from modules.zero_shot.search import Limits, ZenSearch, search_in

    preset = PRESETS[check_choice(args.preset, PRESETS, "preset (--preset)")] if args.preset else None
    name = args.space or (preset.space if preset else "cifar")
    space = replace(read_space(name), origin=args.origin)
    if args.init_structure:
        space = replace(space, start=str(read_structure(args.init_structure)))
    budgets = [args.budget_model_size, args.budget_flops, args.budget_latency]
    sizes = from_arguments(SizeLimits, args)
    if budgets == [None] * 3 and not sizes:
        source = preset or first_preset(name)
        budgets = [source.model_size, source.flops, source.latency]
    limits = Limits(args.max_layers or (preset.layers if preset else space.max_layers), *budgets, args.platform,
                    args.latency_confidence, sizes)
    print(f"limits: {limits}")
    search = ZenSearch(
        space, read_structure(space.start), limits,
        proxy=check_proxy(args.zero_shot_score), batch=args.batch_size or (preset.batch_size if preset else 16),
        classes=args.num_classes or space.classes, resolution=args.input_image_size or space.resolution,
        population_size=args.population_size, seed=args.seed, measure=args.measure_best, random_start=args.random_start,
        children=args.children, workers=args.workers)
    search_in(args.save_dir, search, args.evolution_max_iter, args.max_evaluations, resume=args.resume,
              overwrite=args.overwrite)


if __name__ == "__main__":
    run(main)
