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

from modules.utils.cli import make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--space", default="cifar", help="cifar, flops or latency: the published settings")
    parser.add_argument("--init_structure", default="", help="string or file to start from; default: the space's")
    parser.add_argument("--origin", action="store_true",
                        help="widths change one by one, as in Zen-NAS; default: output and hidden width together")
    parser.add_argument("--zero_shot_score", default="Zen",
                        help="Zen, NASWOT, GradNorm, Syncflow, NTK, RN, TE-NAS, Flops, Params or Random")
    parser.add_argument("--evolution_max_iter", type=int, default=480000, help="mutations, of which most are refused")
    parser.add_argument("--max_evaluations", type=int, default=None, help="stop after this many scored structures")
    parser.add_argument("--population_size", type=int, default=512)
    parser.add_argument("--budget_model_size", type=float, default=None, metavar="PARAMETERS")
    parser.add_argument("--budget_flops", type=float, default=None, metavar="MACS")
    parser.add_argument("--budget_latency", type=float, default=None, metavar="MS")
    parser.add_argument("--platform", default="", help="of --budget_latency, such as onnxruntime_int8")
    parser.add_argument("--max_layers", type=int, default=None, help="default: the space's")
    parser.add_argument("--input_image_size", type=int, default=None, metavar="PIXELS", help="default: the space's")
    parser.add_argument("--num_classes", type=int, default=None, help="default: the space's")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save_dir", default="results/zen_nas")
    parser.add_argument("--resume", action="store_true", help="continue the search in --save_dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the search in --save_dir")
    args = parser.parse_args()

    from dataclasses import replace

    from modules.utils.errors import check_choice
    from modules.zero_shot.scoring import check_proxy
    from modules.zero_shot.search import Limits, ZenSearch
    from modules.zero_shot.space import SPACES
    from modules.zero_shot.structure import read_structure

    space = replace(SPACES[check_choice(args.space, SPACES, "space (--space)")], origin=args.origin)
    search = ZenSearch(
        args.save_dir, space, read_structure(args.init_structure or space.start),
        Limits(args.max_layers or space.max_layers, args.budget_model_size, args.budget_flops, args.budget_latency,
               args.platform),
        proxy=check_proxy(args.zero_shot_score), batch=args.batch_size, classes=args.num_classes or space.classes,
        resolution=args.input_image_size or space.resolution, population_size=args.population_size, seed=args.seed,
        resume=args.resume, overwrite=args.overwrite)
    best = search.run(args.evolution_max_iter, args.max_evaluations)
    print(f"{len(search.history)} structures scored; best {search.history.top(1)[0].fitness:.4f}: {best}")


if __name__ == "__main__":
    run(main)
