"""Latency of many subnets: all at once against one by one and against a model call for every block.

    OMP_NUM_THREADS=1 python benchmarks/bench_latency.py --platform onnx_lut --supernet onnxw-151122-023231

"at once" and "one by one" predict every distinct block once; "block by block" calls the model for each block of each
subnet. Each way is timed on a platform without known blocks; the model itself is loaded before. The step from encodings
to structures is timed apart. The slow ways run on fewer subnets. Prints wall time and, in brackets, processor time.
"""
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.latency import get_platform
from modules.modeling.complexity import count_block
from modules.modeling.net_spec import resolve
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.cli import make_parser, run
from modules.utils.settings import option


def at_once(platform, nets):
    return platform.predict_subnets(nets).ms


def one_by_one(platform, nets):
    return np.array([platform.predict_subnet(net) for net in nets])


def block_by_block(platform, nets):
    totals = []
    for net in nets:
        hw, total = (net.resolution, net.resolution), 0.0
        for _, block in net.blocks:
            total += float(platform.price_blocks([block.args], [hw]).ms[0])
            hw = count_block(block, hw)[1]
        totals.append(total)
    return np.array(totals)


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--platform", "onnx_lut", "platform")
    option(parser, "--supernet", "onnxw-151122-023231", "supernet")
    option(parser, "--subnets", 10_000, "subnets", low=1)
    option(parser, "--slow_subnets", 200, "subnets of the slower ways", low=1)
    args = parser.parse_args(argv)

    config = SupernetConfig.from_str(args.supernet)
    space, rng = SubnetSpace(config, config.space.resolutions), np.random.default_rng(0)
    choices = [space.sample(rng) for _ in range(args.subnets)]
    loading = Clock()
    get_platform(args.platform).predict_subnet(resolve(config, space.extreme(min)))
    print(f"{args.platform}, {config}: loading {loading}", end=", ")
    resolving = Clock()
    specs = [resolve(config, choice) for choice in choices]
    print(f"resolving {args.subnets} subnets {resolving}")

    expected, first = None, 0.0
    for way, count in ((at_once, args.subnets), (one_by_one, args.slow_subnets), (block_by_block, args.slow_subnets)):
        platform, clock = get_platform(args.platform), Clock()
        result = way(platform, specs[:count])
        text, each = str(clock), clock.processor / count
        expected = result if expected is None else expected
        np.testing.assert_allclose(result, expected[:count], rtol=1e-9)
        first = first or each
        print(f"{way.__name__.replace('_', ' ')}: {text} for {count} subnets, {1000 * each:.3f} ms of processor each, "
              f"{each / first:.0f} times")


class Clock:
    """Seconds since its construction."""

    def __init__(self):
        self._wall, self._processor = time.perf_counter(), time.process_time()

    @property
    def processor(self) -> float:
        """Seconds of processor time."""
        return time.process_time() - self._processor

    def __str__(self) -> str:
        return f"{time.perf_counter() - self._wall:.2f} s ({self.processor:.2f} s)"


if __name__ == "__main__":
    run(main)
