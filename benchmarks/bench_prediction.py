"""Predicted against measured latency of whole networks, space by space.

    OMP_NUM_THREADS=1 python benchmarks/bench_prediction.py --platform onnxruntime_int8 \
        --superspace cifarw_short --supernet_choices 666-011 666-212 511-222

The platform's correction from sums of blocks to networks is fitted to networks of all spaces together. This tells
whether it holds in one space, such as one of a single block type. The networks are drawn at random from the space, at
all its resolutions, and measured in turns with a reference block. Prints the median of predicted / measured, the mean
absolute error, the largest one, and Kendall's tau.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.latency import get_platform
from modules.latency.profile.timer import network_timer
from modules.latency.profile.validation import kendall_tau
from modules.modeling.net_spec import resolve
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.cli import make_parser, run
from modules.utils.settings import SEED, option


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--platform", "onnxruntime_int8", "platform that measures networks: onnxruntime_int8 or a profile")
    option(parser, "--superspace", "cifarw_short", "superspace")
    option(parser, "--supernet_choices", ("666-011", "666-212", "511-222"), "spaces", kind=str, many="+",
           metavar="CHOICE")
    option(parser, "--nets", 15, "networks of each space", low=3)
    SEED.add_to(parser, "--seed")
    args = parser.parse_args(argv)

    platform = get_platform(args.platform)
    measure = network_timer(args.platform, platform, "--platform")
    for choice in args.supernet_choices:
        config = SupernetConfig.from_choice(args.superspace, choice)
        space, rng = SubnetSpace(config, config.space.resolutions), np.random.default_rng(args.seed)
        specs = [resolve(config, space.sample(rng)) for _ in range(args.nets)]
        predicted = platform.predict_subnets(specs).ms
        measured = np.array([measure(spec) for spec in specs])
        ratio = predicted / measured
        error = np.abs(ratio - 1)
        print(f"{config}: {len(specs)} networks of {measured.min():.3f} to {measured.max():.3f} ms; predicted / "
              f"measured {np.median(ratio):.3f}, mean error {error.mean():.1%}, largest {error.max():.1%}, "
              f"tau {kendall_tau(predicted, measured):.2f}", flush=True)


if __name__ == "__main__":
    run(main)
