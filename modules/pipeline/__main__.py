"""From a folder of images to a verified INT8 file within a latency limit, in one command.

    python -m modules.pipeline --dataset_path /path/to/images --latency_constraint 1.0 --budget 30m
    python -m modules.pipeline --dataset cluttered_digits --budget 12m

The folder holds train/ and val/ with a folder of images per class. A teacher is trained, the blocks of the superspace
are distilled from it, their loss and latency are tabulated, the search space is searched, its supernet is trained in
fp32 and INT8, subnets are searched, the best are measured, the one found is trained further, exported and checked. Each
step is a script of this project, printed as it is called. The budget is divided by what two short measurements say of
this machine; the sizes that it leads to are printed. A run that was killed goes on with --resume.

Ends with the INT8 file and its card, a table and a figure: accuracy over measured latency of the network found, of the
smallest of its space, of random search's best, and of MobileNetV2 within the limit.
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
