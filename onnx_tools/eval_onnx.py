"""Accuracy of an ONNX file under onnxruntime.

    python onnx_tools/eval_onnx.py --model_path model_quant_int8.onnx --dataset digits
    python onnx_tools/eval_onnx.py --model_path model_quant_int8.onnx --dataset_path /path/to/imagenet

Data set and crop size default to those recorded in the file.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_accuracy_arguments
from modules.utils.cli import make_parser, run
from modules.utils.settings import PIXELS, option


def main(argv=None):
    parser = make_parser(__doc__)
    add_accuracy_arguments(parser, "--threads")
    option(parser, "--resolution", 0, "image size, which must be the model's", shown="the model's", **PIXELS)
    args = parser.parse_args(argv)
    from modules.deploy.check.accuracy import session_accuracy
    from modules.runtime.engines import open_model
    from modules.utils.errors import UserError

    session = open_model(args.model_path, args.threads)
    size = session.get_inputs()[0].shape[-1]
    if args.resolution not in (0, size):
        raise UserError(f"--resolution {args.resolution} of {args.model_path!r}; allowed: {size}")
    accuracy = session_accuracy(session, session.metadata, args.dataset, args.dataset_path, args.batch_size)
    print(f"{args.model_path}: acc1 {accuracy} of {accuracy.images} images")


if __name__ == "__main__":
    run(main)
