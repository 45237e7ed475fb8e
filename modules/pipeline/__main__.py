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
from pathlib import Path

from modules.utils.cli import make_parser, run


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--dataset", default="", help="name of a data set, such as cluttered_digits or CIFAR10; "
                                                      "default: folder")
    parser.add_argument("--dataset_path", default="", help="folder with train/ and val/")
    parser.add_argument("--latency_constraint", type=float, default=0.0, metavar="MS",
                        help="limit in ms; default: one that half of the superspace's networks keep")
    parser.add_argument("--platform", default="onnxruntime_int8",
                        help="device of the latency: this machine (the default), or one that was profiled")
    parser.add_argument("--teacher", default="efficientnet-tiny", help="architecture of the teacher")
    parser.add_argument("--teacher_weights", default="", help="weights that it starts from")
    parser.add_argument("--superspace", default="onnxw_tiny", help="such as onnxw_tiny, onnxw, mobilew")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[], metavar="PIXELS",
                        help="input resolutions; default: the superspace's up to the smallest of its block tables")
    parser.add_argument("--budget", default="30m", help="time for all, such as 90s, 30m or 4h (default: 30m)")
    parser.add_argument("--tables", default="own", help="folder of block tables instead of tables of one's own")
    parser.add_argument("--no_baselines", action="store_true", help="neither random search nor MobileNetV2")
    parser.add_argument("--output", default="pipeline_output", help="folder for all files (default: pipeline_output)")
    parser.add_argument("--seed", type=int, default=0, help="of all random draws (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on with what is there; where nothing is, start")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where there is a run")
    args = parser.parse_args(argv)

    from modules.pipeline.pipeline import run_pipeline
    from modules.pipeline.request import Request, default_resolutions, parse_duration

    start = time.monotonic()
    run_pipeline(Request(
        dataset=args.dataset, dataset_path=args.dataset_path and str(Path(args.dataset_path).resolve()),
        limit=args.latency_constraint, platform=args.platform, teacher=args.teacher,
        teacher_weights=args.teacher_weights, superspace=args.superspace,
        resolutions=tuple(args.resolutions) or default_resolutions(args.superspace),
        budget=parse_duration(args.budget), output=Path(args.output).resolve(),
        tables=args.tables if args.tables == "own" else str(Path(args.tables).resolve()),
        baselines=not args.no_baselines, seed=args.seed), resume=args.resume, overwrite=args.overwrite)
    print(f"\nThis took {(time.monotonic() - start) / 60:.1f} minutes of a budget of {args.budget}.")


if __name__ == "__main__":
    run(main)
