"""Zero-shot scores of a network: of a structure string, or of a subnet of a SpaceEvo space.

    python zen_nas/score.py --structure "SuperConvK3BNRELU(3,64,1,1)SuperResK1K5K1(64,128,2,16,3)" \\
        --input_image_size 32 --num_classes 10
    python zen_nas/score.py --network resnet20 --num_classes 10
    python zen_nas/score.py --network SEQnet@vnni-A0 --zero_shot_score Zen NASWOT --repeat 4 \\
        --no_reslink

Prints mean and standard deviation over --repeat draws of weights and inputs with the 95% interval of the mean, and the
network's parameters and multiply-accumulates. The proxies do not see squeeze-and-excitation of a subnet. With
--no_reslink, for subnets of different block types, they do not see shortcuts either.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.search_space.reference import NETWORK
from modules.utils.cli import make_parser, run
from modules.utils.settings import PIXELS, SEED, TRAIN_BATCH, option
from modules.zero_shot.arguments import PROXIES


def main(argv=None):
    parser = make_parser(__doc__)
    NETWORK.add_to(parser, "--network")
    option(parser, "--structure", "", "structure string, or the file that holds it; another name of --network")
    option(parser, "--subnet_name", "", "subnet: a published one, or an encoding in --superspace and --supernet_choice")
    option(parser, "--superspace", "", "superspace of an encoding")
    option(parser, "--supernet_choice", "", "supernet of an encoding")
    option(parser, "--zero_shot_score", ("Zen",), f"scores: {PROXIES}", many="+")
    option(parser, "--no_reslink", False, "without shortcuts, as the search scores")
    option(parser, "--repeat", 32, "draws of weights and inputs", low=1)
    option(parser, "--batch_size", 16, "images per draw", **TRAIN_BATCH)
    option(parser, "--input_image_size", None, "image size", kind=int, shown="the network's", **PIXELS)
    option(parser, "--num_classes", 1000, "classes", low=1, high=10**6)
    option(parser, "--gpu", None, "number of the GPU that scores", kind=int, low=0, high=1023, shown="the CPU scores")
    SEED.add_to(parser, "--seed")
    args = parser.parse_args(argv)

    import numpy as np

    from modules.modeling.complexity import count_net_flops_and_params
    from modules.zero_shot.plain_view import plain_view
    from modules.zero_shot.proxies import check_proxy
    from modules.zero_shot.published.flags import choose_gpu
    from modules.zero_shot.scoring import scores

    proxies = [check_proxy(name) for name in args.zero_shot_score]
    spec, device = _spec(args), choose_gpu(args)
    macs, params = count_net_flops_and_params(spec)
    print(f"{macs:.2f} million multiply-accumulates, {params:.2f} million parameters, {spec.resolution} pixels")
    for proxy in proxies:
        values = np.array(scores(plain_view(spec, not args.no_reslink), proxy, args.batch_size, args.repeat, args.seed,
                                 device))
        print(f"{proxy}: {summary(values)}")


def summary(values):
    """Mean of an array of scores, its interval and the deviation; of a single score there are none."""
    if len(values) == 1:
        return f"{values[0]:.6g}, 1 repeat"
    spread = values.std(ddof=1)
    return (f"{values.mean():.6g} +- {1.96 * spread / len(values)**0.5:.3g} (95%), deviation {spread:.3g}, "
            f"{len(values)} repeats")


def _spec(args):
    from modules.modeling.net_spec import resolve
    from modules.search_space.reference import read_network
    from modules.utils.errors import UserError

    given = [text for text in (args.network, args.structure, args.subnet_name) if text]
    if len(given) != 1:
        raise UserError(f"{len(given)} of --network, --structure and --subnet_name given; expected one")
    network = read_network(given[0], args.superspace, args.supernet_choice).at(args.input_image_size or 0)
    return resolve(network.space, network.subnet, args.num_classes)


if __name__ == "__main__":
    run(main)
