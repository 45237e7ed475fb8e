"""The search of Zen-NAS under the flags of its published program.

    python zen_nas/evolution_search.py --zero_shot_score Zen --search_space SearchSpace/search_space_XXBL.py \\
        --budget_model_size 1e6 --max_layers 18 --batch_size 64 --input_image_size 32 --num_classes 100 \\
        --plainnet_struct_txt init_plainnet.txt --fix_initialize --evolution_max_iter 2000 --population_size 512 \\
        --save_dir results/zen_cifar

--search_space takes a published file's name, a name of search.py, or your own yaml file; --search_space_list replaces
its blocks. Files of the published program are not read. With --fix_initialize the first structures are mutated from
--plainnet_struct_txt; without it they are random. --budget_latency is in seconds per image, as published, but for int8
at batch 1 on --platform. Files and --resume are those of search.py, which has presets and further limits.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import add_run_arguments, make_parser, run
from modules.utils.settings import BATCH, PIXELS, SEED, option


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--gpu", None, "accepted for old command lines; the CPU scores", kind=int, low=0, high=1023)
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
    option(parser, "--evolution_max_iter", 480000, "mutations; most are refused", low=1)
    option(parser, "--population_size", 512, "structures that are alive", low=1)
    option(parser, "--budget_model_size", None, "most parameters", kind=float, above=0, unit="parameters", shown="any")
    option(parser, "--budget_flops", None, "most multiply-accumulates", kind=float, above=0, unit="MACs", shown="any")
    option(parser, "--budget_latency", None, "highest latency of an image", kind=float, above=0, unit="seconds",
           shown="any")
    option(parser, "--platform", "", "device of --budget_latency, such as onnx_lut")
    option(parser, "--max_layers", None, "most layers", kind=int, low=1, shown="the space's")
    option(parser, "--batch_size", 64, "images per score", **BATCH)
    option(parser, "--input_image_size", None, "image size", kind=int, shown="the space's", **PIXELS)
    option(parser, "--num_classes", None, "classes", kind=int, low=1, high=10**6, shown="the space's")
    option(parser, "--children", 1, "structures from one population; --workers score them side by side", low=1,
           high=4096)
    option(parser, "--workers", 0, "processes that score; 0: the script itself", low=0, high=256)
    SEED.add_to(parser, "--seed")
    option(parser, "--save_dir", "results/zen_nas", "folder of all files")
    add_run_arguments(parser, "search")
    args = parser.parse_args(argv)

    from modules.zero_shot.search import search_in

    search_in(args.save_dir, make_search(args), args.evolution_max_iter, resume=args.resume, overwrite=args.overwrite)


def make_search(args):
    """The search of the flags."""
    from dataclasses import replace

    from modules.search_space.networks.structure import read_structure
    from modules.search_space.networks.zen_space import check_blocks, read_space
    from modules.utils.errors import UserError
    from modules.zero_shot.scoring import check_proxy
    from modules.zero_shot.search import Limits, ZenSearch

    space = replace(read_space(args.search_space or "cifar"), origin=args.origin)
    if args.search_space_list:
        space = replace(space, blocks=check_blocks(args.search_space_list))
    given = args.plainnet_struct or args.plainnet_struct_txt
    if args.fix_initialize and not given:
        raise UserError("--fix_initialize without --plainnet_struct_txt; expected the file of a structure")
    start = read_structure(given or space.start)
    start = replace(start, use_se=start.use_se or args.use_se)
    proxy = f"Zen:{args.gamma:g}" if args.zero_shot_score == "Zen" and args.gamma != 0.01 else args.zero_shot_score
    latency = args.budget_latency and args.budget_latency * 1000
    limits = Limits(args.max_layers or space.max_layers, args.budget_model_size, args.budget_flops, latency,
                    args.platform)
    return ZenSearch(
        replace(space, start=str(start)), start, limits, proxy=check_proxy(proxy), batch=args.batch_size,
        classes=args.num_classes or space.classes, resolution=args.input_image_size or space.resolution,
        population_size=args.population_size, seed=args.seed, random_start=not args.fix_initialize,
        children=args.children, workers=args.workers)


if __name__ == "__main__":
    run(main)
