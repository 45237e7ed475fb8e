"""Export subnets as ONNX files: fp32 from checkpoint.pth, int8 from lsq.pth with the trained scales and zero points.

    python onnx_tools/export_onnx.py --input onnx_tools/input.csv
    python onnx_tools/export_onnx.py --input onnx_tools/input.csv --skip_weights

Each line of the input is superspace,choice,subnet. Prints on how many images of the validation set the int8 file and
the fake-quantised network disagree, and writes a card (json) beside each file. With --skip_weights the files have
random weights and serve for timing only.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.training.arguments import add_data_arguments, make_evaluator
from modules.utils.cli import make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--input", default="onnx_tools/input.csv", help="lines superspace,choice,subnet")
    parser.add_argument("--output_dir", default="checkpoints/models/onnx_model")
    parser.add_argument("--align_sample", action="store_true", help="the supernet was trained with --align_sample")
    parser.add_argument("--resume", default="checkpoints/supernet_training",
                        help="folder that holds <superspace>-<choice>-align0/")
    parser.add_argument("--quant_mode", action="store_true", help="export the int8 files only")
    parser.add_argument("--skip_weights", action="store_true", help="random weights, no checkpoint, no data")
    parser.add_argument("--uint8_input", action="store_true",
                        help="models that take images as bytes (batch, R, R, 3): the first convolution normalises")
    add_data_arguments(parser)
    args = parser.parse_args()

    from modules.search_space.subnet_list import read_subnets

    precisions = (True,) if args.quant_mode else (False, True)
    for space, choices in _by_space(read_subnets(args.input)).items():
        for args.quant_mode in precisions:
            if args.skip_weights:
                _export_untrained(args, space, choices)
            else:
                _export_trained(args, space, choices)


def _by_space(subnets):
    spaces = {}
    for space, choice in subnets:
        spaces.setdefault(space, []).append(choice)
    return spaces


def _export_untrained(args, space, choices):
    from modules.deploy.to_onnx.export import export_untrained

    for choice in choices:
        print(export_untrained(space, choice, args.output_dir, args.quant_mode, pixels=args.uint8_input))


def _export_trained(args, space, choices):
    import torch

    from modules.deploy.to_onnx.export import export_trained

    evaluator = make_evaluator(args, space, torch.device("cpu"))
    for choice in choices:
        path, agreement, operators = export_trained(evaluator, choice, args.output_dir, args.uint8_input)
        print(f"{path}: {agreement}", flush=True)
        if args.quant_mode:
            print(f"{path}: onnxruntime runs {operators.get('Conv', 0)} float convolutions, quantises "
                  f"{operators.get('QuantizeLinear', 0)} and dequantises {operators.get('DequantizeLinear', 0)} "
                  "tensors between operators", flush=True)


if __name__ == "__main__":
    run(main)
