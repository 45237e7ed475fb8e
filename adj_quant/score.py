"""The MicroNet score of a network at given bits, part by part. Nothing is trained, no checkpoint is read.

    python adj_quant/score.py --network efficientnet_b0 --weight_bits 4 --act_bits 4
    python adj_quant/score.py --network efficientnet_b0 --metric official --weight_bits 2.94 --act_bits 5.5
    python adj_quant/score.py --network efficientnet_b0 --quant_info checkpoints/adj_quant/quant_info.json

There are three rules. They differ because they charge different things.

repository: that of the published code, which training uses. A multiplication and its addition both have the bits of the
    larger operand, and weights, biases, swish are all that is charged. EfficientNet-B0 at 8 bits: 0.359725.
official: that of the challenge. Additions have 32 bits, for nothing keeps them shorter; pooling, gates, activations and
    sums are charged too. EfficientNet-B0 at 8 bits: 0.6159; the network that the repository scores 0.179 was ranked
    with 0.4678.
bitops: multiply-accumulates times the bits of both operands, in 10^9.

A product of a dense layer can meet every pair of channels, and the mean over all pairs is exact. The published code
pairs channel k of the repeated weights with channel k of the repeated activations, which are all pairs only where their
numbers have no common divisor: --pairing tile gives its figures for trained bits.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.adjustable.config import METRICS, PAIRINGS
from modules.search_space.reference import NETWORK, read_network
from modules.utils.cli import make_parser, run, say_unused
from modules.utils.errors import UserError
from modules.utils.settings import option

BITS = {"above": 0, "high": 32, "unit": "bits"}


def main(argv=None):
    parser = make_parser(__doc__)
    NETWORK.add_to(parser, "--network", default="efficientnet_b0")
    option(parser, "--num_classes", 1000, "classes of the network", low=1)
    option(parser, "--metric", "repository", "rule of the score", choices=METRICS)
    option(parser, "--pairing", "all", "channels of weights and activations that meet, in the rules repository and "
           "official", choices=PAIRINGS)
    option(parser, "--weight_bits", 8.0, "bits of all weights", **BITS)
    option(parser, "--act_bits", 8.0, "bits of all inputs of layers; the image has 8", **BITS)
    option(parser, "--swish_bits", 8.0, "bits of all other values: no weights, no biases, no inputs of layers", **BITS)
    option(parser, "--bias_bits", 8.0, "bits of all biases", **BITS)
    option(parser, "--quant_info", "", "quant_info.json with the bits of every channel; instead of --weight_bits and "
           "--act_bits")
    option(parser, "--model_info", "", "model_info.json whose counts take the place of the network's")
    option(parser, "--output", "", "csv file for the table")
    args = parser.parse_args(argv)
    if args.model_info and args.metric == "official":
        raise UserError(f"--model_info {args.model_info} with --metric official, which counts additions apart; allowed "
                        "with --metric repository or bitops")

    if args.quant_info:
        say_unused(args, parser, ("weight_bits", "act_bits"), "with --quant_info, which has the bits of each channel")
    if args.metric == "bitops":
        say_unused(args, parser, ("swish_bits", "bias_bits", "pairing"), "with --metric bitops")

    from modules.adjustable.scoring.score import NetworkCost, part_score, table, total
    from modules.deploy.graph.untrained import untrained_graph
    from modules.utils.results import format_table, write_rows

    network = read_network(args.network)
    cost = NetworkCost(untrained_graph(network.space, network.subnet, int8=False, num_classes=args.num_classes),
                       args.model_info)
    widths = (cost.read(args.quant_info, args.swish_bits, args.bias_bits) if args.quant_info else
              cost.uniform(args.weight_bits, args.act_bits, args.swish_bits, args.bias_bits))
    parts = cost.parts(widths, args.metric, args.pairing)
    rows = table(parts, args.metric)
    if args.output:
        write_rows(args.output, rows)
    print(format_table(rows))
    whole = total(parts)
    print(f"{network}: {whole.parameters} parameters, {whole.operations} operations, {args.metric} score "
          f"{part_score(whole, args.metric):.6f}")


if __name__ == "__main__":
    run(main)
