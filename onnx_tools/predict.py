"""The likeliest classes of image files, by an ONNX file.

    python onnx_tools/predict.py --model_path model_quant_int8.onnx photo.jpg other.png

Class names and preprocessing are those in the file.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--top", type=int, default=5, help="classes to name")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    from modules.deploy.check.classify import print_guesses
    from modules.runtime.ort import open_model, session_metadata

    session = open_model(args.model_path, args.threads)
    print_guesses(session, session_metadata(session, args.model_path), args.images, args.top)


if __name__ == "__main__":
    run(main)
