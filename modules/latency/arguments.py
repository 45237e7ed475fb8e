"""Platforms from the command line options of `modules.training.arguments.add_platform_arguments`."""
from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from modules.utils.errors import UserError


def platform_names(args: argparse.Namespace, superspace) -> list[str]:
    """The platforms that the options name, or the default of `superspace`; UserError for an unknown or repeated one."""
    from modules.latency.platform import check_platform

    names = [check_platform(name) for name in args.platform or [superspace.default_platform]]
    if len(set(names)) < len(names):
        raise UserError(f"--platform {' '.join(names)}: a platform is given twice")
    if args.latency_table and len(args.latency_table) != len(names):
        raise UserError(f"--latency_table {' '.join(args.latency_table)}: {len(args.latency_table)} files for "
                        f"{len(names)} platforms; give one for each, - for none")
    return names


def make_platforms(args: argparse.Namespace, superspace) -> dict:
    """The platforms that the options describe, by name."""
    from modules.latency.predictor import get_platform

    names = platform_names(args, superspace)
    tables = ["" if path == "-" else path for path in args.latency_table] or [""] * len(names)
    return {name: get_platform(name, table) for name, table in zip(names, tables, strict=True)}


def tables_identity(args: argparse.Namespace) -> list[str]:
    """A digest of each file of `--latency_table`, for what has to be the same when a run is continued."""
    return [path if path == "-" else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
            for path in args.latency_table]


def add_platform_arguments(parser: argparse.ArgumentParser) -> None:
    """`--platform` and `--latency_table`."""
    parser.add_argument("--platform", nargs="+", default=[], metavar="NAME",
                        help="of the latency, such as onnx_lut; several: each; default: the superspace's")
    parser.add_argument("--latency_table", nargs="+", default=[], metavar="FILE",
                        help="block latencies in nn-Meter's JSON form that win over the platform's; one file for each "
                             "platform, - for none")
