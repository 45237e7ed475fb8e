"""Export subnets as ONNX files: fp32 from checkpoint.pth, int8 from lsq.pth with the trained scales and zero points.

    python onnx_tools/export_onnx.py --input onnx_tools/input.csv
    python onnx_tools/export_onnx.py --input onnx_tools/input.csv --skip_weights

Each line of the input is superspace,choice,subnet, or a network by any name that --network takes. --network replaces
the file:

    python onnx_tools/export_onnx.py --network resnet20:0.5 mobilenet_v4_conv_s --skip_weights

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
    add_export_arguments(parser, "onnx_tools", "checkpoints/models/onnx_model")
    option(parser, "--uint8_input", False, "models that take images as bytes (batch, R, R, 3): the first convolution "
           "normalises")
    args = parser.parse_args(argv)

    from modules.deploy.to_onnx.export import OnnxFormat

    export_given(args, OnnxFormat(args.uint8_input))


if __name__ == "__main__":
    run(main)
