"""Accuracy of a TFLite file under LiteRT.

    python tflite_tools/eval_tflite.py --model_path model_quant_int8.tflite --dataset digits
    python tflite_tools/eval_tflite.py --model_path model_quant_int8.tflite --dataset_path /path/to/imagenet

Data set and crop size default to those recorded in the file.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--dataset", default="", help="digits, folder, CIFAR10 ...; default: the one in the file")
    parser.add_argument("--dataset_path", default="", help="folder with train/ and val/")
    parser.add_argument("--batch_size", type=int, default=50, help="images that are loaded at a time")
    parser.add_argument("--num_threads", type=int, default=1)
    args = parser.parse_args()

    from modules.deploy.check.accuracy import session_accuracy
    from modules.runtime.litert import open_session

    session = open_session(args.model_path, args.num_threads)
    accuracy = session_accuracy(session, session.metadata, args.dataset, args.dataset_path, args.batch_size)
    print(f"{args.model_path}: acc1 {accuracy} of {accuracy.images} images")


if __name__ == "__main__":
    run(main)
