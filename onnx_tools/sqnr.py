"""Signal-to-quantisation-noise ratio of every tensor of int8 subnets, to find the layers that lose accuracy.

    python onnx_tools/sqnr.py --input onnx_tools/input.csv --resume checkpoints/supernet_training

Each line superspace,choice,subnet of the input is measured on one batch of validation images: the integer executor
against the fake-quantised network of lsq.pth, and that network against itself in float. Writes a csv and a PNG for
each, and prints the tensors with the most noise in the engine.
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
    add_subnets_argument(parser, "onnx_tools")
    option(parser, "--output_dir", "checkpoints/models/sqnr", "folder of tables and figures")
    option(parser, "--resume", SUPERNETS, "folder that holds <superspace>-<choice>-align0/")
    ALIGNED.add_to(parser, "--align_sample")
    option(parser, "--worst", 10, "tensors to print", low=0)
    add_arguments(parser, Evaluation)
    args = parser.parse_args(argv)

    from modules.deploy.check.sqnr import measure_noise, plot_noise, table
    from modules.deploy.graph.lower import lower
    from modules.deploy.naming import model_path
    from modules.search_space.reference import reference_to
    from modules.utils.results import format_table, write_rows

    evaluators = {}
    for space, choice in given_subnets(args):
        if space not in evaluators:
            evaluators[space] = make_evaluator(
                from_arguments(Evaluation, args), given_checkpoint(args, space, True), space, quant_mode=True)
        evaluator = evaluators[space]
        net = evaluator.subnet(choice)
        images = next(iter(evaluator.validation_batches()))[0]
        rows = measure_noise(net, lower(net, evaluator.calibration), images)
        path = model_path(args.output_dir, space, choice, int8=True).with_suffix("")
        write_rows(f"{path}_sqnr.csv", table(rows))
        plot_noise(rows, f"{path}_sqnr.png")
        print(f"{reference_to(space, choice)}: logits {rows[-1].engine_db:.1f} dB, in training "
              f"{rows[-1].training_db:.1f} dB; {path}_sqnr.csv")
        print(format_table(table(sorted(rows, key=lambda row: row.engine_db)[:args.worst])), flush=True)


if __name__ == "__main__":
    run(main)
