"""The search of Zen-NAS under the flags of its published program.

    python zen_nas/evolution_search.py --zero_shot_score Zen --search_space SearchSpace/search_space_XXBL.py \\
        --budget_model_size 1e6 --max_layers 18 --batch_size 64 --input_image_size 32 --num_classes 100 \\
        --plainnet_struct_txt init_plainnet.txt --fix_initialize --evolution_max_iter 2000 --population_size 512 \\
        --save_dir results/zen_cifar

--search_space takes a published file's name, a name of search.py, or your own yaml file; --search_space_list replaces
its blocks. Files of the published program are not read. With --fix_initialize the first structures are mutated from
--plainnet_struct_txt; without it they are random. --budget_latency is in seconds per image, as published, but for int8
at batch 1 on --platform. Further limits, --measure_best, files and --resume are those of search.py, which has presets
too.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run, say_unused
from modules.utils.settings import option
from modules.zero_shot.arguments import add_search_arguments, given_limits, run_search


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--zero_shot_score", "Zen", "score, as of score.py")
    option(parser, "--search_space", "", "space: search_space_XXBL.py, search_space_IDW_fixfc.py, cifar, flops, "
           "latency, or a yaml file", shown="cifar")
    option(parser, "--search_space_list", (), "blocks: published files such as PlainNet/SuperResK1KXK1.py, or names",
           kind=str, many="+")
    option(parser, "--fix_initialize", False, "start from --plainnet_struct_txt, not from random structures")
    option(parser, "--origin", False, "output and hidden widths change one by one, as in Zen-NAS itself")
    option(parser, "--plainnet_struct_txt", "", "file that holds the structure to start from", shown="the space's")
    option(parser, "--plainnet_struct", "", "structure string to start from")
    option(parser, "--use_se", False, "with squeeze-and-excitation; limits count it, scores do not")
    option(parser, "--gamma", 0.01, "size of the perturbation in the Zen score", above=0, high=100)
    add_search_arguments(parser, latency_unit="seconds", batch="64")
    args = parser.parse_args(argv)

    if args.zero_shot_score != "Zen":
        say_unused(args, parser, ("gamma",), f"with --zero_shot_score {args.zero_shot_score}")

    from dataclasses import replace

    from modules.search_space.networks.structure import read_structure
    from modules.search_space.networks.zen_space import check_blocks, read_space
    from modules.utils.errors import UserError

    space = replace(read_space(args.search_space or "cifar"), origin=args.origin)
    if args.search_space_list:
        space = replace(space, blocks=check_blocks(args.search_space_list))
    given = args.plainnet_struct or args.plainnet_struct_txt
    if args.fix_initialize and not given:
        raise UserError("--fix_initialize without --plainnet_struct_txt; expected the file of a structure")
    start = read_structure(given or space.start)
    start = replace(start, use_se=start.use_se or args.use_se)
    proxy = f"Zen:{args.gamma:g}" if args.zero_shot_score == "Zen" and args.gamma != 0.01 else args.zero_shot_score
    run_search(args, replace(space, start=str(start)), start, given_limits(args, space, ms=1000), proxy=proxy, batch=64,
               random_start=not args.fix_initialize)


if __name__ == "__main__":
    run(main)
