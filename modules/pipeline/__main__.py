"""Make a verified INT8 file within a latency limit from a folder of images, in one command.

    python -m modules.pipeline --dataset_path /path/to/images --latency_constraint 1.0 --budget 30m
    python -m modules.pipeline --dataset moved_digits --tables data/block_lut --budget 12m

The folder holds train/ and val/ with a folder of images for each class. The steps: train a teacher, distil the blocks
of the superspace from it, tabulate their loss and latency, search the best space, train its supernet in fp32 and INT8,
search subnets, measure the best, train a few of them alone, take the best of these within the limit, train it in the
time that is left, export it and check it. A training-free score counts beside the loss of the blocks; where the budget
is short for teacher and blocks, it is the only loss (--zero_shot). Where it is short for a supernet of these images
there is none, and such a score chooses the few (--fitness). Each step calls a script of this project and prints the
command. Short measurements of this machine divide the budget; the sizes of the steps are printed. A killed run
continues with --resume.

The result is the INT8 file and its card, a table and a figure. Both show accuracy over measured latency for the network
found, the smallest of its space and random search's best without the last training, and the largest MobileNetV2 that is
measured within the limit, trained for as many epochs as the network found or for as many as the same time allows.
"""
from __future__ import annotations

import time

from modules.pipeline.request import Request
from modules.utils.cli import add_run_arguments, make_parser, run
from modules.utils.settings import add_arguments, from_arguments


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add_arguments(parser, Request)
    add_run_arguments(parser, "pipeline")
    args = parser.parse_args(argv)
    request = from_arguments(Request, args)

    from modules.pipeline.pipeline import run_pipeline

    start = time.monotonic()
    run_pipeline(request, resume=args.resume, overwrite=args.overwrite)
    print(f"\nThis took {(time.monotonic() - start) / 60:.1f} minutes of a budget of {request.budget}.")


if __name__ == "__main__":
    run(main)
