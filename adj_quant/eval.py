"""Accuracy and score of what adj_quant/train.py wrote, and the bits of its layers.

    python adj_quant/eval.py --superspace onnxw_tiny --supernet_choice 512202-012000 \\
        --model checkpoints/adj_quant/adj.pth
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.adjustable.arguments import Source, add_model_arguments, add_source_arguments, make_source
from modules.training.arguments import given_networks
from modules.utils.cli import add_local_rank, make_parser, run
from modules.utils.settings import TRAIN_BATCH, from_arguments, option


def main(argv=None):
    parser = make_parser(__doc__)
    add_source_arguments(parser)
    add_model_arguments(parser)
    option(parser, "--batch_size", 50, "images per batch and process", **TRAIN_BATCH)
    add_local_rank(parser)
    args = parser.parse_args(argv)

    from modules.adjustable.points import chosen_file
    from modules.adjustable.report import bit_table
    from modules.adjustable.start import evaluate_adjustable
    from modules.utils.dist import close, init_distributed, rank
    from modules.utils.results import format_table

    ((space, named),) = given_networks(args)
    evaluator = make_source(from_arguments(Source, args), space, args.align_sample, named,
                            device=init_distributed(args.local_rank), batch_size=args.batch_size)
    model = chosen_file(args.model, args.pick)
    network, config, accuracy = evaluate_adjustable(model, evaluator)
    score = network.score(config.gamma, config.norms)
    if rank() == 0:
        print(format_table(bit_table(network)))
        print(f"{model}: acc1 {accuracy}, score {score.item():.6f}")
    close()


if __name__ == "__main__":
    run(main)
