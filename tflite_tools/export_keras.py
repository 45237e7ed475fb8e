"""Export subnets as Keras models, and as int8 files of TensorFlow's own converter.

    python tflite_tools/export_keras.py --input tflite_tools/input.csv
    python tflite_tools/export_keras.py --input tflite_tools/input.csv --skip_weights

Each line of the input is superspace,choice,subnet. Writes <subnet>.keras with the weights of checkpoint.pth, batch norm
folded in. Also writes <subnet>_converter_int8.tflite by post-training quantisation, with ranges from calibration
images. Prints on how many images of the validation set each file and the fp32 network disagree. The second file is a
baseline for export_tflite.py, which keeps the trained scales; benchmark.py --baselines converter times it. With
--skip_weights the weights are random and the files serve for timing only. Needs TensorFlow (requirements.txt).
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_subnets_argument, given_checkpoint, given_subnets
from modules.training.arguments import ALIGNED, SUPERNETS, Evaluation, make_evaluator
from modules.utils.cli import make_parser, run
from modules.utils.settings import add_arguments, from_arguments, option


def main(argv=None):
    parser = make_parser(__doc__)
    add_subnets_argument(parser, "tflite_tools")
    option(parser, "--output_dir", "checkpoints/models/tflite_model", "folder of the files")
    ALIGNED.add_to(parser, "--align_sample")
    option(parser, "--resume", SUPERNETS, "folder that holds <superspace>-<choice>-align0/")
    option(parser, "--skip_weights", False, "random weights, no checkpoint, no data")
    add_arguments(parser, Evaluation)
    args = parser.parse_args(argv)

    from modules.deploy.to_keras.export import export_trained, export_untrained
    from modules.deploy.to_keras.load import import_tensorflow

    subnets, _ = given_subnets(args), import_tensorflow()
    evaluators = {}
    for space, choice in subnets:
        if args.skip_weights:
            print(*export_untrained(space, choice, args.output_dir), sep="\n", flush=True)
            continue
        if space not in evaluators:
            evaluators = {space: _evaluator(args, space)}
        for path, agreement in export_trained(evaluators[space], choice, args.output_dir):
            print(f"{path}: {agreement}", flush=True)


def _evaluator(args, space):
    path = given_checkpoint(args, space, False)
    return make_evaluator(from_arguments(Evaluation, args), path, space, quant_mode=False)  # the converter quantises


if __name__ == "__main__":
    run(main)
