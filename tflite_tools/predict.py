"""Print the likeliest classes of image files, by a TFLite file.

    python tflite_tools/predict.py --model_path model_quant_int8.tflite photo.jpg other.png

Class names and preprocessing come from the TFLite file.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_predict_arguments, predict_given
from modules.utils.cli import make_parser, run


def main(argv=None):
    parser = make_parser(__doc__)
    add_predict_arguments(parser, "--num_threads")
    predict_given(parser.parse_args(argv))


if __name__ == "__main__":
    run(main)
