"""Search a trained int8 supernet for the most accurate subnets under latency limits (step 6 of the pipeline).

    python search_subnet.py --superspace onnxw_tiny --supernet_choice 053412-000000 --latency_constraint 0.6 0.7 \\
        --latency_delta 0.2 --population_size 24 --mutation_size 12 --crossover_size 12 --max_time_budget 4

With several platforms a subnet has to keep a limit on each: here 10 ms on the first and 20 ms on the second, each with
a probability of 90% by what the platforms say of their errors.

    python search_subnet.py --superspace onnxw --supernet_choice 151122-023231 --platform onnx_lut tflite27_cpu_int8 \\
        --latency_constraint 10 20 --latency_confidence 0.9

On ImageNet with 4 GPUs, each of which evaluates other subnets; the supernet was trained with --valid_size 10000:

    torchrun --nproc_per_node 4 search_subnet.py --superspace onnxw --supernet_choice 151122-023231 \\
        --latency_constraint 10 15 20 25 --latency_delta 2 --dataset_path /path/to/imagenet --valid_size 10000 \\
        --batch_size 32

With --measure_best the best subnets of each limit are built as int8 models and timed at the end, as long as it takes to
find so many that keep the limit; one that breaks it is marked in best.csv and not chosen:

    python search_subnet.py --superspace onnxw --supernet_choice 151122-023231 --platform onnxruntime_int8 \\
        --latency_constraint 10 --measure_best 5

The limits on operations, parameters, file and memory hold beside that of latency, or without one:

    python search_subnet.py --superspace onnxw --supernet_choice 151122-023231 --max_params 6 --max_memory_mb 7

Without a trained supernet: --fitness puts a training-free score (zen_nas/score.py lists them) in place of the accuracy.
With one, --prefilter evaluates only the subnets of each round with the best scores.

    python search_subnet.py --superspace onnxw --supernet_choice 151122-023231 --platform onnx_lut \\
        --latency_constraint 10 --fitness Params

Writes <output_path>/<superspace>-<choice>/<limits>ms.log and, in a folder of that name, subnets.csv (all evaluated
subnets), front.csv (Pareto front), best.csv (the best of each limit, tested on the validation set if the search used
images held out of training), export.csv (input of onnx_tools/export_onnx.py), search.png, and state.json, from which
--resume continues. --method random is the baseline; --baseline draws its subnets.csv into the figure.
"""
import sys
from pathlib import Path

from modules.latency.arguments import add_platform_arguments
from modules.search.generations import GenerationSizes
from modules.search.limits import SizeLimits
from modules.search.measured import MEASURE_BEST
from modules.search.subnet.settings import SearchSettings
from modules.training.arguments import SUPERNETS, Images, add_supernet_arguments
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run, say_unused
from modules.utils.notes import say
from modules.utils.settings import TRAIN_BATCH, add_arguments, from_arguments, option, settings_of

MEASURED = ("valid_size", "use_testset", "batch_size", "num_calib_batches", "debug", "debug_batches")  # how accuracy is


def main(argv=None):
    parser = make_parser(__doc__)
    add_supernet_arguments(parser)
    option(parser, "--checkpoint_path", SUPERNETS, "lsq.pth, or the folder that holds "
           "<superspace>-<choice>-align0/lsq.pth")
    add_arguments(parser, Images)
    option(parser, "--valid_size", None, "training images to measure on, which training must have held out; 0: the "
           "validation set", kind=int, low=0, unit="images", shown="as many as training held out")
    option(parser, "--use_testset", False, "measure on the validation set, as --valid_size 0")
    option(parser, "--batch_size", 64, "images per batch and process", **TRAIN_BATCH)
    option(parser, "--num_calib_batches", 20, "training batches that calibrate batch norm", low=1)
    option(parser, "--debug", False, "evaluate on --debug_batches batches only")
    option(parser, "--debug_batches", 10, "batches of --debug", low=1)

    add_platform_arguments(parser)
    add_arguments(parser, SearchSettings)
    add_arguments(parser, SizeLimits)
    add_arguments(parser, GenerationSizes)
    option(parser, "--measure_best", 0, MEASURE_BEST, low=0)
    option(parser, "--test_top_num", 10, "subnets per limit in best.csv, tested where images remain for it", low=0)
    option(parser, "--output_path", Path("results/search_subnet"), "folder; /<superspace>-<choice>/<limits>ms is "
           "appended")
    option(parser, "--baseline", "", "subnets.csv of another search, for the figure", metavar="FILE")
    add_run_arguments(parser, "search")
    option(parser, "--verbose", False, "accepted for old command lines; always on")
    add_local_rank(parser)
    args = parser.parse_args(argv)

    if not args.debug:
        say_unused(args, parser, ("debug_batches",), "without --debug")
    if args.fitness:
        say_unused(args, parser, ("checkpoint_path", "align_sample", *settings_of(Images), *MEASURED),
                   "with --fitness, which needs neither weights nor images")
        args.use_testset = False  # it is part of the folder's name
    elif args.use_testset and args.valid_size:
        say("--valid_size has no effect with --use_testset")

    from modules.latency.arguments import platform_names
    from modules.search_space.config import SupernetConfig

    space = SupernetConfig.from_choice(args.superspace, args.supernet_choice)
    args.platform = platform_names(args.platform, args.latency_table, space.space)
    settings = from_arguments(SearchSettings, args, devices=len(args.platform),
                              sizes=from_arguments(GenerationSizes, args),
                              size_limits=from_arguments(SizeLimits, args))
    if settings.method == "random" and settings.predictor == "none":
        say_unused(args, parser, ("survival",), "with --method random, which has no parents")

    from modules.search.subnet.report import folder_name
    from modules.search.subnet.search import FILES
    from modules.utils import dist
    from modules.utils.runs import STATE_FILE, Run
    from modules.zero_shot.subnet_scores import score_fitness

    device = dist.init_distributed(args.local_rank)
    stem = folder_name(settings, args.platform, args.use_testset)
    with Run(args.output_path / str(space) / stem / STATE_FILE, files=FILES, resume=args.resume,
             overwrite=args.overwrite, option="--output_path") as opened:
        if settings.fitness:
            if dist.rank() == 0:
                search(args, space, settings, score_fitness(space, settings), opened)
        else:
            search_by_accuracy(args, space, settings, opened, device)
    dist.close()


def search_by_accuracy(args, space, settings, opened, device):
    """The search with the int8 accuracy in a trained supernet as fitness; the first process searches."""
    from modules.latency.platform import weight_bits
    from modules.modeling.restore import find_checkpoint
    from modules.search.subnet.fitness import SharedEvaluation, accuracy_fitness, make_alone_evaluator
    from modules.utils import dist
    from modules.utils.notes import say

    evaluator = make_alone_evaluator(
        find_checkpoint(args.checkpoint_path, space, True, args.align_sample), space, from_arguments(Images, args),
        valid_size=0 if args.use_testset else args.valid_size, batch_size=args.batch_size,
        calibration_batches=args.num_calib_batches, limit_batches=args.debug_batches if args.debug else 0,
        seed=settings.seed, device=device)
    trained = evaluator.record.quant.nbits_w
    for name, bits in ((name, weight_bits(name)) for name in args.platform):
        if bits < trained and dist.rank() == 0:
            say(f"platform {name} is of weights of {bits} bits, this supernet has {trained}: latencies may be too low. "
                f"Train it with --quant_weight_bits {bits}")
    evaluation = SharedEvaluation(evaluator)
    if dist.rank() == 0:
        with evaluation:
            search(args, space, settings, accuracy_fitness(evaluator, evaluation), opened)
    else:
        evaluation.serve()


def search(args, space, settings, fitness, opened):
    """What the first process does, in the folder of the run `opened`."""
    from modules.latency.arguments import make_platforms, tables_identity
    from modules.latency.platform import weight_bits
    from modules.latency.profile.timer import network_timer
    from modules.search.subnet.measure import Measurement, chosen
    from modules.search.subnet.proposals import Proposer
    from modules.search.subnet.report import print_best, print_next
    from modules.search.subnet.search import SubnetSearch, run_search
    from modules.search.subnet.state import SearchState
    from modules.zero_shot.subnet_scores import BATCH, SubnetScores

    platforms = make_platforms(args.platform, args.latency_table, space.space)
    score = SubnetScores(space, fitness.num_classes, settings.prefilter, BATCH, settings.seed) if settings.prefilter \
        else None
    proposer = Proposer(fitness.subnets, platforms, fitness.num_classes, settings, score)
    folder = opened.path.parent
    identity = {**settings.identity, "platform": list(platforms), "latency_table": tables_identity(args.latency_table),
                **fitness.identity}
    state = SearchState(opened, identity)
    for note in fitness.notes:
        print(note, file=sys.stderr)
    timers = [network_timer(name, platform) for name, platform in platforms.items()] if args.measure_best else []
    measurement = Measurement(timers, args.measure_best, proposer.spec, state) if timers else None
    ranking = run_search(SubnetSearch(proposer, fitness.evaluate, state), folder,
                         folder.with_name(f"{folder.name}.log"), notes=fitness.notes, baseline=args.baseline,
                         label=fitness.label, measurement=measurement,
                         top_num=args.test_top_num, tested=fitness.tested)
    if settings.prefilter:
        print(f"--prefilter {settings.prefilter}: {proposer.filtered} subnets within the limits were not evaluated")
    best = chosen(ranking, state.measured if measurement else {})
    print_best(ranking, best, folder)
    bits = min(map(weight_bits, args.platform)) if settings.fitness else fitness.weight_bits
    print_next(args, fitness.num_classes if settings.fitness else 0, bits, best, folder)


if __name__ == "__main__":
    run(main)
