"""Options that name platforms, and the platforms from them."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modules.utils.errors import UserError
from modules.utils.files import file_digest
from modules.utils.settings import option

if TYPE_CHECKING:
    from modules.latency.platform import Platform
    from modules.search_space.superspace import Superspace


def platform_names(platforms: Sequence[str], tables: Sequence[str], superspace: Superspace) -> list[str]:
    """The platforms of `--platform`, or the default of `superspace`; UserError for an unknown or repeated one.

    Args:
        platforms, tables: values of `--platform` and `--latency_table`.
        superspace: its default platform is taken if none is given.
    """
    from modules.latency.platform import check_platform

    names = [check_platform(name) for name in platforms or [superspace.default_platform]]
    if len(set(names)) < len(names):
        raise UserError(f"--platform {' '.join(names)}: a platform is given twice")
    if tables and len(tables) != len(names):
        raise UserError(f"--latency_table {' '.join(tables)}: {len(tables)} files for {len(names)} platforms; give one "
                        "for each, - for none")
    return names


def make_platforms(platforms: Sequence[str], tables: Sequence[str], superspace: Superspace) -> dict[str, Platform]:
    """The platforms that the options describe, by name; see `platform_names`."""
    from modules.latency.predictor import get_platform

    names = platform_names(platforms, tables, superspace)
    paths = ["" if path == "-" else path for path in tables] or [""] * len(names)
    return {name: get_platform(name, path) for name, path in zip(names, paths, strict=True)}


def tables_identity(tables: Sequence[str]) -> list[str]:
    """A digest of each file of `--latency_table`: a continued run must have the same."""
    return [path if path == "-" else file_digest(path)[:16] for path in tables]


def add_platform_arguments(parser: argparse.ArgumentParser) -> None:
    """`--platform` and `--latency_table`."""
    option(parser, "--platform", (), "devices of the latency, such as onnx_lut; several: each", kind=str, many="+",
           metavar="NAME", shown="the superspace's")
    option(parser, "--latency_table", (), "files of block latencies in nn-Meter's JSON form that win over the "
           "platform's; one for each platform, - for none", kind=str, many="+", metavar="FILE")
