"""Accuracy of TFLite files under LiteRT.

    python tflite_tools/eval_tflite.py --model_path model_quant_int8.tflite --dataset digits
    python tflite_tools/eval_tflite.py --model_path model_quant_int8.tflite --dataset_path /path/to/imagenet

Data set and crop size default to those recorded in the file; a folder of images needs --dataset_path too. Several files
are compared with the first, as by onnx_tools/eval_onnx.py.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_accuracy_arguments, evaluate_given
from modules.utils.cli import make_parser, run


def main(argv=None):
    parser = make_parser(__doc__)
    add_accuracy_arguments(parser, "--num_threads")
    evaluate_given(parser.parse_args(argv))


if __name__ == "__main__":
    run(main)
