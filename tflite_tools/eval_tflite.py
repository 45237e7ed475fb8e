"""Accuracy of a TFLite file under LiteRT.

    python tflite_tools/eval_tflite.py --model_path model_quant_int8.tflite --dataset digits
    python tflite_tools/eval_tflite.py --model_path model_quant_int8.tflite --dataset_path /path/to/imagenet

Data set and crop size default to those recorded in the file.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_accuracy_arguments
from modules.utils.cli import make_parser, run


def main(argv=None):
    parser = make_parser(__doc__)
    add_accuracy_arguments(parser, "--num_threads")
    args = parser.parse_args(argv)
    from modules.deploy.check.accuracy import session_accuracy
    from modules.runtime.engines import open_model

    session = open_model(args.model_path, args.threads)
    accuracy = session_accuracy(session, session.metadata, args.dataset, args.dataset_path, args.batch_size)
    print(f"{args.model_path}: acc1 {accuracy} of {accuracy.images} images")


if __name__ == "__main__":
    run(main)
