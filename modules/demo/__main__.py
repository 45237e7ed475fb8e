"""The pipeline at small scale, from a teacher to int8 models; ends with a table and figures.

    python -m modules.demo --output demo_output [--short]
"""
from __future__ import annotations

import time
from pathlib import Path

from modules.utils.cli import make_parser, run
from modules.utils.settings import option


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    option(parser, "--output", "demo_output", "folder for all files")
    option(parser, "--short", False, "a form of a few minutes, with less training")
    args = parser.parse_args(argv)

    from modules.demo.plan import FULL, SHORT
    from modules.demo.space import find_space
    from modules.demo.summary import summarize
    from modules.demo.supernet import SupernetDemo

    start, plan, output = time.monotonic(), SHORT if args.short else FULL, Path(args.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    space, figures = find_space(plan, output)
    demo = SupernetDemo(plan, space, output)
    demo.run()
    summarize(demo, figures)
    print(f"\nThe demo took {(time.monotonic() - start) / 60:.1f} minutes.")


if __name__ == "__main__":
    run(main)
