"""Export subnets as TFLite files: fp32 from checkpoint.pth, full-integer int8 from lsq.pth with the trained scales.

    python tflite_tools/export_tflite.py --input tflite_tools/input.csv
    python tflite_tools/export_tflite.py --input tflite_tools/input.csv --skip_weights

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
    parser.add_argument("--input", default="tflite_tools/input.csv", help="lines superspace,choice,subnet")
    parser.add_argument("--output_dir", default="checkpoints/models/tflite_model")
    parser.add_argument("--align_sample", action="store_true", help="the supernet was trained with --align_sample")
    parser.add_argument("--resume", default="checkpoints/supernet_training",
                        help="folder that holds <superspace>-<choice>-align0/")
    parser.add_argument("--quant_mode", action="store_true", help="export the int8 files only")
    parser.add_argument("--skip_weights", action="store_true", help="random weights, no checkpoint, no data")
    parser.add_argument("--plain_depthwise", action="store_true",
                        help="for runs without XNNPACK: leave 7 x 7 depthwise convolutions as they are, instead of "
                             "as grouped ones, which XNNPACK runs several times faster")
    parser.add_argument("--int8_output", action="store_true",
                        help="int8 models give codes, as devices without float need it, instead of float32 logits: "
                             "some more answers differ")
    add_data_arguments(parser)
    args = parser.parse_args()

    from modules.deploy.to_tflite.float_writer import Form
    from modules.search_space.subnet_list import read_subnets

    form = Form(grouped=not args.plain_depthwise, int8_output=args.int8_output)

    precisions, spaces = (True,) if args.quant_mode else (False, True), {}
    for space, choice in read_subnets(args.input):
        spaces.setdefault(space, []).append(choice)
    for space, choices in spaces.items():
        for args.quant_mode in precisions:
            (_export_untrained if args.skip_weights else _export_trained)(args, space, choices, form)


def _export_untrained(args, space, choices, form):
    from modules.deploy.to_tflite.export import export_untrained

    for choice in choices:
        print(export_untrained(space, choice, args.output_dir, args.quant_mode, form))


def _export_trained(args, space, choices, form):
    import torch

    from modules.deploy.to_tflite.export import export_trained

    evaluator = make_evaluator(args, space, torch.device("cpu"))
    for choice in choices:
        path, agreement = export_trained(evaluator, choice, args.output_dir, form)
        print(f"{path}: {agreement}", flush=True)


if __name__ == "__main__":
    run(main)
