"""Accuracy of ONNX files under onnxruntime.

    python onnx_tools/eval_onnx.py --model_path model_quant_int8.onnx --dataset digits
    python onnx_tools/eval_onnx.py --model_path model_quant_int8.onnx other.onnx --dataset_path /path/to/imagenet

Data set and crop size default to those recorded in the file; a folder of images needs --dataset_path too. Several files
are compared with the first: McNemar's test tells how likely chance alone divides the images so that only one of two
gets right.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_accuracy_arguments, evaluate_given
from modules.utils.cli import make_parser, run
from modules.utils.errors import UserError
from modules.utils.settings import PIXELS, option


def main(argv=None):
    parser = make_parser(__doc__)
    add_accuracy_arguments(parser, "--threads")
    option(parser, "--resolution", 0, "image size, which must be the model's", shown="the model's", **PIXELS)
    args = parser.parse_args(argv)

    def check(session, path):
        size = session.get_inputs()[0].shape[-1]
        if args.resolution not in (0, size):
            raise UserError(f"--resolution {args.resolution} of {path!r}; allowed: {size}")

    evaluate_given(args, check)


if __name__ == "__main__":
    run(main)
