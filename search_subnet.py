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

Writes <output_path>/<superspace>-<choice>/<limits>ms.log and, in a folder of that name, subnets.csv (all evaluated
subnets), front.csv (Pareto front), best.csv (the best of each limit, tested on the validation set if the search used
images held out of training), export.csv (input of onnx_tools/export_onnx.py), search.png, and state.json, from which
--resume continues. --method random is the baseline; --baseline draws its subnets.csv into the figure.
"""
import sys
from pathlib import Path

from modules.latency.arguments import add_platform_arguments
from modules.training.arguments import add_image_arguments, add_supernet_arguments
from modules.utils.cli import add_local_rank, make_parser, run


def main():
    parser = make_parser(__doc__)
    add_supernet_arguments(parser)
    parser.add_argument("--checkpoint_path", default="checkpoints/supernet_training",
                        help="lsq.pth, or the folder that holds <superspace>-<choice>-align0/lsq.pth")
    add_image_arguments(parser)
    parser.add_argument("--valid_size", type=int, default=None,
                        help="measure on this many training images, which training must have held out; 0: on the "
                             "validation set; default: as many as training held out")
    parser.add_argument("--use_testset", action="store_true", help="measure on the validation set, --valid_size 0")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_calib_batches", type=int, default=20, help="training batches that calibrate batch norm")
    parser.add_argument("--debug", action="store_true", help="evaluate on --debug_batches batches only")
    parser.add_argument("--debug_batches", type=int, default=10)

    parser.add_argument("--latency_constraint", type=float, nargs="+", required=True, metavar="MS",
                        help="latency limits in ms; several share all evaluations. With several platforms: one for "
                             "each, in their order, once or several times")
    parser.add_argument("--latency_delta", type=float, default=5.0, metavar="MS",
                        help="subnets between limit - delta and limit are considered (with several platforms on one "
                             "of them; all keep their limit)")
    parser.add_argument("--latency_confidence", type=float, default=0.0, metavar="SHARE",
                        help="a subnet is within a limit if this share of its predicted distribution is, such as 0.9; "
                             "0: if its predicted latency is")
    add_platform_arguments(parser)
    parser.add_argument("--method", default="evolution", help="evolution, or random: the baseline")
    parser.add_argument("--population_size", type=int, default=512, help="random subnets at the start, per limit")
    parser.add_argument("--max_time_budget", type=int, default=20, metavar="ROUNDS", help="rounds after the start")
    parser.add_argument("--max_evaluations", type=int, default=0, help="stop after this many subnets; 0: no bound")
    parser.add_argument("--parent_ratio", type=float, default=0.5, help="of the population that may be parents")
    parser.add_argument("--mutation_size", type=int, default=128, help="mutants per round and limit")
    parser.add_argument("--crossover_size", type=int, default=128, help="crossovers per round and limit")
    parser.add_argument("--max_crossover_try", type=int, default=50, help="then a mutant takes its place")
    parser.add_argument("--arch_mutate_prob", type=float, default=0.3)
    parser.add_argument("--resolution_mutate_prob", type=float, default=0.5)
    parser.add_argument("--manual_seed", type=int, default=0)

    parser.add_argument("--test_top_num", type=int, default=10, help="subnets per limit that are tested at the end")
    parser.add_argument("--output_path", type=Path, default=Path("results/search_subnet"))
    parser.add_argument("--baseline", default="", metavar="FILE", help="another search's subnets.csv, for the figure")
    parser.add_argument("--resume", action="store_true", help="continue a search that was killed")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where there is a search already")
    parser.add_argument("--verbose", action="store_true", help="accepted for old command lines; always on")
    add_local_rank(parser)
    args = parser.parse_args()

    from modules.latency.arguments import platform_names
    from modules.search.generations import GenerationSizes
    from modules.search.subnet.proposals import SearchSettings
    from modules.search_space.config import SupernetConfig

    space = SupernetConfig.from_choice(args.superspace, args.supernet_choice)
    args.platform = platform_names(args, space.space)
    settings = SearchSettings(
        limits=tuple(args.latency_constraint), delta=args.latency_delta,
        devices=len(args.platform), confidence=args.latency_confidence, method=args.method,
        sizes=GenerationSizes(args.population_size, args.parent_ratio, args.mutation_size, args.crossover_size,
                              args.max_crossover_try),
        arch_mutate_prob=args.arch_mutate_prob, resolution_mutate_prob=args.resolution_mutate_prob,
        rounds=args.max_time_budget, max_evaluations=args.max_evaluations, seed=args.manual_seed)

    from modules.search.subnet.fitness import SharedEvaluation, make_alone_evaluator
    from modules.utils import dist

    device = dist.init_distributed(args.local_rank)
    evaluator = make_alone_evaluator(args, space, device)
    evaluation = SharedEvaluation(evaluator)
    if dist.rank() == 0:
        with evaluation:
            search(args, space, settings, evaluator, evaluation)
    else:
        evaluation.serve()
    dist.close()


def search(args, space, settings, evaluator, evaluation):
    """What the first process does."""
    from modules.latency.arguments import make_platforms, tables_identity
    from modules.search.subnet.fitness import fitness_identity, fitness_notes
    from modules.search.subnet.proposals import Proposer
    from modules.search.subnet.search import SubnetSearch, run_search
    from modules.search.subnet.state import SearchState

    platforms = make_platforms(args, space.space)
    proposer = Proposer(evaluator.model.subnets, platforms, evaluator.model.num_classes, settings)
    stem = "+".join(f"{limit:g}" for limit in settings.limits) + "ms"
    stem += f"_{'+'.join(platforms).replace(':', '-').replace('/', '-')}" * (len(platforms) > 1)
    stem += f"_{settings.confidence:g}" * (settings.confidence > 0)
    stem += "_testset" * args.use_testset + "_random" * (settings.method == "random")
    folder = args.output_path / str(space) / stem
    identity = {**settings.identity, "platform": list(platforms), "latency_table": tables_identity(args),
                **fitness_identity(evaluator)}
    state = SearchState(folder / "state.json", identity, args.resume, args.overwrite)
    notes = fitness_notes(evaluator)
    for note in notes:
        print(note, file=sys.stderr)
    best = run_search(SubnetSearch(proposer, evaluation, state), folder, folder.with_name(f"{stem}.log"), notes=notes,
                      test_top_num=args.test_top_num if evaluator.valid_size else 0, baseline=args.baseline)
    for window, subnets in best.items():
        print(f"best within {window} ms: {subnets[0]} [{', '.join(f'{v:.2f}' for v in subnets[0].accuracy.interval)}]")
    print(f"files in {folder}\nnext: python onnx_tools/export_onnx.py --input {folder / 'export.csv'} --resume "
          f"{args.checkpoint_path} --quant_mode")


if __name__ == "__main__":
    run(main)
