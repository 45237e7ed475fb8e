"""Zero-shot scores of a network: of a structure string, or of a subnet of a SpaceEvo space.

    python zen_nas/score.py --structure "SuperConvK3BNRELU(3,64,1,1)SuperResK1K5K1(64,128,2,16,3)" \\
        --input_image_size 32 --num_classes 10
    python zen_nas/score.py --subnet_name SEQnet@vnni-A0 --zero_shot_score Zen NASWOT --repeat 4 \\
        --no_reslink

Prints mean and standard deviation over --repeat draws of weights and inputs with the 95% interval of the mean, and what
the network has of parameters and multiply-accumulates. Of a subnet the proxies do not see squeeze-and-excitation, and
with --no_reslink, which suits subnets of different block types, no shortcuts.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--structure", default="", help="string, or the file that holds it")
    parser.add_argument("--subnet_name", default="", help="a published subnet, or an encoding of --superspace")
    parser.add_argument("--superspace", default="")
    parser.add_argument("--supernet_choice", default="")
    parser.add_argument("--zero_shot_score", nargs="+", default=["Zen"],
                        help="Zen, NASWOT, GradNorm, Syncflow, NTK, RN, TE-NAS, Flops, Params or Random")
    parser.add_argument("--no_reslink", action="store_true", help="without shortcuts, as the search scores")
    parser.add_argument("--repeat", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--input_image_size", type=int, default=224, metavar="PIXELS", help="of a structure")
    parser.add_argument("--num_classes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    import numpy as np

    from modules.modeling.complexity import count_net_flops_and_params
    from modules.zero_shot.plain_view import plain_view
    from modules.zero_shot.scoring import check_proxy, scores

    spec = _spec(args)
    macs, params = count_net_flops_and_params(spec)
    print(f"{macs:.2f} million multiply-accumulates, {params:.2f} million parameters, {spec.resolution} pixels")
    for proxy in map(check_proxy, args.zero_shot_score):
        values = np.array(scores(plain_view(spec, not args.no_reslink), proxy, args.batch_size, args.repeat, args.seed))
        spread = values.std(ddof=1) if len(values) > 1 else float("nan")
        print(f"{proxy}: {values.mean():.6g} +- {1.96 * spread / len(values)**0.5:.3g} (95%), deviation {spread:.3g}, "
              f"{len(values)} repeats")


def _spec(args):
    from modules.modeling.net_spec import resolve
    from modules.search_space.published import find_subnet
    from modules.utils.errors import UserError
    from modules.zero_shot.structure import read_structure

    if bool(args.structure) == bool(args.subnet_name):
        raise UserError("expected either --structure or --subnet_name")
    if args.structure:
        return read_structure(args.structure).net_spec(args.input_image_size, args.num_classes)
    *_, space, choice = find_subnet(args.subnet_name, args.superspace, args.supernet_choice)
    return resolve(space, choice, args.num_classes)


if __name__ == "__main__":
    run(main)
