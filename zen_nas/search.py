"""Search a network by a zero-shot score, within limits of size, operations, depth or latency. No images, no training.

    python zen_nas/search.py --space cifar --budget_model_size 5e5 --max_layers 16 --evolution_max_iter 2000
    python zen_nas/search.py --space flops --budget_flops 4e8 --evolution_max_iter 480000
    python zen_nas/search.py --space latency --budget_latency 5 --platform onnxruntime_int8 --max_layers 16

Limits hold for the whole network with its shortcuts; FLOPs and model size are counted as published, latency is that of
int8 at batch 1 in ms, as the platform predicts it. Writes <save_dir>/best_structure.txt, scores.csv (all scored
structures), search.png, search.log, and state.json, from which --resume continues.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import add_run_arguments, make_parser, run
from modules.utils.settings import BATCH, PIXELS, SEED, option

PROXIES = "Zen, NASWOT, GradNorm, Syncflow, NTK, RN, TE-NAS, ZiCo, QE, Flops, Params, Latency:PLATFORM or Random"


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--space", "cifar", "published settings", choices=("cifar", "flops", "latency"))
    option(parser, "--init_structure", "", "structure string or file to start from", shown="the space's")
    option(parser, "--origin", False, "widths change one by one, as in Zen-NAS; otherwise output and hidden width "
           "together")
    option(parser, "--zero_shot_score", "Zen", f"score: {PROXIES}")
    option(parser, "--evolution_max_iter", 480000, "mutations, of which most are refused", low=1)
    option(parser, "--max_evaluations", None, "scored structures after which the search stops", kind=int, low=1,
           shown="never")
    option(parser, "--population_size", 512, "structures that are alive", low=1)
    option(parser, "--budget_model_size", None, "most parameters", kind=float, above=0, unit="parameters", shown="any")
    option(parser, "--budget_flops", None, "most multiply-accumulates", kind=float, above=0, unit="MACs", shown="any")
    option(parser, "--budget_latency", None, "highest latency", kind=float, above=0, unit="ms", shown="any")
    option(parser, "--platform", "", "device of --budget_latency, such as onnxruntime_int8")
    option(parser, "--max_layers", None, "most layers", kind=int, low=1, shown="the space's")
    option(parser, "--input_image_size", None, "image size", kind=int, shown="the space's", **PIXELS)
    option(parser, "--num_classes", None, "classes", kind=int, low=1, high=10**6, shown="the space's")
    option(parser, "--batch_size", 16, "images per score", **BATCH)
    SEED.add_to(parser, "--seed")
    option(parser, "--save_dir", "results/zen_nas", "folder of all files")
    add_run_arguments(parser, "search")
    args = parser.parse_args(argv)

    from dataclasses import replace

    from modules.search_space.networks.structure import read_structure
    from modules.utils.errors import check_choice
    from modules.utils.runs import STATE_FILE, Run
    from modules.zero_shot.proxies import check_proxy
    from modules.zero_shot.search import FILES, LOGS, Limits, ZenSearch
    from modules.zero_shot.space import SPACES

    space = replace(SPACES[check_choice(args.space, SPACES, "space (--space)")], origin=args.origin)
    search = ZenSearch(
        space, read_structure(args.init_structure or space.start),
        Limits(args.max_layers or space.max_layers, args.budget_model_size, args.budget_flops, args.budget_latency,
               args.platform),
        proxy=check_proxy(args.zero_shot_score), batch=args.batch_size, classes=args.num_classes or space.classes,
        resolution=args.input_image_size or space.resolution, population_size=args.population_size, seed=args.seed)
    with Run(Path(args.save_dir) / STATE_FILE, logs=LOGS, files=FILES, resume=args.resume, overwrite=args.overwrite,
             option="--save_dir") as opened:
        best = search.run(opened, args.evolution_max_iter, args.max_evaluations)
    print(f"{len(search.history)} structures scored; best {search.history.top(1)[0].fitness:.4f}: {best}")


if __name__ == "__main__":
    run(main)
