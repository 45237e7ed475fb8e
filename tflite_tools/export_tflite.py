"""Export subnets as TFLite files: fp32 from checkpoint.pth, full-integer int8 from lsq.pth with the trained scales.

    python tflite_tools/export_tflite.py --input tflite_tools/input.csv
    python tflite_tools/export_tflite.py --input tflite_tools/input.csv --skip_weights

Each line of the input is superspace,choice,subnet, or a network by any name that --network takes. --network replaces
the file:

    python tflite_tools/export_tflite.py --network resnet20:0.5 mobilenet_v4_conv_s --skip_weights

Prints on how many images of the validation set the int8 file and the fake-quantised network disagree, and writes a
card (json) beside each file. With --skip_weights the files have random weights and serve for timing only.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_export_arguments, export_given
from modules.utils.cli import make_parser, run
from modules.utils.settings import option


def main(argv=None):
    parser = make_parser(__doc__)
    add_export_arguments(parser, "tflite_tools", "checkpoints/models/tflite_model")
    option(parser, "--plain_depthwise", False, "for runs without XNNPACK: leave 7 x 7 depthwise convolutions as they "
           "are, instead of as grouped ones, which XNNPACK runs several times faster")
    option(parser, "--int8_output", False, "int8 models give codes, for devices without float, instead of "
           "float32 logits: some more answers differ")
    args = parser.parse_args(argv)

    from modules.deploy.to_tflite.export import TfliteFormat
    from modules.deploy.to_tflite.float_writer import Form

    export_given(args, TfliteFormat(Form(grouped=not args.plain_depthwise, int8_output=args.int8_output)))


if __name__ == "__main__":
    run(main)
