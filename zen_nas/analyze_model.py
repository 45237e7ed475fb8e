"""A network layer by layer: multiply-accumulates, parameters, and the predicted latency of its blocks.

    python zen_nas/analyze_model.py --arch zennet_imagenet1k_flops400M_SE_res224
    python zen_nas/analyze_model.py --input_image_size 32 --num_classes 100 --arch Masternet.py:MasterNet \\
        --plainnet_struct_txt results/zen_nas/best_structure.txt --platform epyc_onnxruntime_int8

Milliseconds are for int8 at batch 1 on --platform; ~ before the sum marks an extrapolation of the platform's model.
--output writes the table as csv.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import option
from modules.zero_shot.published.flags import add_network_flags


def main(argv=None):
    parser = make_parser(__doc__)
    add_network_flags(parser)
    option(parser, "--platform", "onnx_lut", "device of the latencies; empty: none")
    option(parser, "--output", "", "csv file of the table", metavar="FILE")
    args = parser.parse_args(argv)

    from modules.latency import get_platform, predict_subnets
    from modules.latency.anatomy import anatomy_rows
    from modules.modeling.net_spec import resolve
    from modules.utils.results import format_table, write_rows
    from modules.zero_shot.published.flags import given_network

    network = given_network(args)
    spec = resolve(network.space, network.subnet, args.num_classes)
    platform = get_platform(args.platform) if args.platform else None
    rows = anatomy_rows(spec, platform)
    print(format_table(rows))
    macs, parameters = (sum(row[column] for row in rows) for column in ("macs", "parameters"))
    print(f"Flops:  {macs:4g}\nParams: {parameters:4g}")
    if platform:
        print(f"Latency: {predict_subnets(platform, [spec]).text(0)}ms on {args.platform}")
    if args.output:
        write_rows(args.output, rows)


if __name__ == "__main__":
    run(main)
