"""Write a network that was trained with --granularity layer as files that engines run, and measure them.

    python adj_quant/export.py --superspace onnxw_tiny --supernet_choice 512202-012000 \\
        --model checkpoints/adj_quant_layer --pick "score<=0.35"

Weights have 4 or 8 bits by layer, what layers read has 8. The ONNX file stores weights of 4 bits as int4; onnxruntime
has no convolution for them, so a Cast makes int8 of them once, when the file is opened, and its int8 kernels run.
LiteRT has some, which take 2.5 to 5 times as long as those of int8: the TFLite file holds int8 codes that are 4-bit
values. Prints size, latency, agreement with the network and accuracy of each file and of the same network in float.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.adjustable.arguments import Source, add_model_arguments, add_source_arguments, make_source
from modules.training.arguments import given_networks
from modules.utils.cli import make_parser, run
from modules.utils.settings import TRAIN_BATCH, from_arguments, option

FORMATS = ("onnx", "tflite")


def main(argv=None):
    parser = make_parser(__doc__)
    add_source_arguments(parser)
    add_model_arguments(parser)
    option(parser, "--format", FORMATS, "formats of files", kind=str, many="+", choices=FORMATS)
    option(parser, "--output_dir", "checkpoints/models/adjustable", "folder of the files")
    option(parser, "--num_calib_batches", 20, "training batches that choose the remaining ranges", low=1)
    option(parser, "--num_runs", 100, "timed runs", low=1)
    option(parser, "--batch_size", 50, "images per batch", **TRAIN_BATCH)
    args = parser.parse_args(argv)

    from dataclasses import asdict

    from modules.adjustable.export import export_engines
    from modules.adjustable.points import chosen_file
    from modules.adjustable.start import load_adjustable
    from modules.utils.results import format_table

    ((space, named),) = given_networks(args)
    evaluator = make_source(from_arguments(Source, args), space, args.align_sample, named,
                            batch_size=args.batch_size, calibration_batches=args.num_calib_batches)
    network, _, choice = load_adjustable(chosen_file(args.model, args.pick), evaluator)
    rows = export_engines(network, evaluator, choice, args.output_dir, args.format, args.num_runs)
    print(format_table([{key: f"{value:.3f}" if isinstance(value, float) else value
                         for key, value in asdict(row).items()} for row in rows]))


if __name__ == "__main__":
    run(main)
