"""Fit the published latency platforms to the published block tables, and judge them on blocks held out of the fit.

    python -m modules.latency.published --tables ../shared/published --output data/latency

writes for each platform <output>/<platform>/model.npz (for `modules.latency.published.platforms`), report.md and
report.png. The tables are not part of the project. Both platforms take about 15 minutes on one core.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, replace
from pathlib import Path

import numpy as np

from modules.latency.fitted.block_model import BlockModel, FitSettings
from modules.latency.fitted.platform import ModelPlatform
from modules.latency.published.anchors import pixel4_anchors
from modules.latency.published.checks import Check, check_blocks, check_random_blocks, check_sizes, check_types, fit
from modules.latency.published.platforms import MODEL_FILE
from modules.latency.published.report import write_report
from modules.latency.published.tables import BlockSamples, read_block_table, read_onnx_json, read_table_rows
from modules.utils.cli import make_parser, run
from modules.utils.files import write_manifest
from modules.utils.results import format_table
from modules.utils.settings import option

_ESTIMATE = 0.06  # gives the stages that are not searched of the smallest network a 90% interval of +-0.4 ms
_HEIGHTS_192 = (96, 48, 24, 12, 6)
_NEW_RESOLUTIONS = {176: (88, 44, 22, 11), 208: (104, 52, 26, 13)}  # without the sizes of 192 and 224


@dataclass(frozen=True)
class Fit:
    """The fit of one platform: the superspace of its block table, settings, and further blocks.

    `new_resolutions`: blocks at resolutions that the table does not have. `estimated`: types that `extra` has estimates
    of; their relative standard deviation is at least `_ESTIMATE`.
    """

    superspace: str
    settings: FitSettings
    extra: Callable[[Path], BlockSamples]
    new_resolutions: Callable[[Path], BlockSamples] | None = None
    estimated: tuple[str, ...] = ()


FITS = {
    # This table holds sums over kernels, additive and free of noise: fine trees over kernels find them.
    "tflite27_cpu_int8": Fit("mobilew", FitSettings(
        kernel_rounds=1000, block_rounds=300, leaves=31, min_leaf=5, huber=1.0, rare=200, folds=3),
        lambda folder: pixel4_anchors(), estimated=("Conv", "MobileNetV2", "FeatureMix", "Logits")),
    # This table was measured, some entries are wrong by a factor of two: absolute errors.
    "onnx_lut": Fit("onnxw", FitSettings(
        kernel_rounds=200, block_rounds=400, leaves=63, min_leaf=10, huber=0.2, loss="l1", rare=200, folds=3),
        read_onnx_json, read_onnx_json),
}


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--tables", MISSING, "folder of the published tables", kind=Path)
    option(parser, "--output", MISSING, "folder; /<platform> is appended", kind=Path)
    option(parser, "--platform", tuple(FITS), "platforms", many="+", choices=tuple(FITS))
    args = parser.parse_args(argv)
    for name in args.platform:
        fit_platform(name, args.tables, args.output / name)


def fit_platform(name: str, tables: Path, folder: Path) -> BlockModel:
    """Check, fit to all blocks, and write the platform's files."""
    plan = FITS[name]
    samples = read_block_table(tables, plan.superspace)
    checks, correlation = check_platform(plan, samples, tables)
    everything = samples + plan.extra(tables)
    model, held_out = fit(everything, plan.settings, types=True)
    least = tuple(_ESTIMATE if kind in plan.estimated else 0.0 for kind in model.domain.types)
    model = replace(model, spread=replace(model.spread, correlation=correlation, least=least))
    model.save(folder / MODEL_FILE)
    checks += check_types(everything, held_out)
    write_report(folder, name, checks, model, len(everything), ModelPlatform(model))
    write_manifest(folder / MODEL_FILE, settings=plan.settings, blocks=len(everything))
    print(f"{format_table([check.row() for check in checks])}\nfiles in {folder}")
    return model


def check_platform(plan: Fit, samples: BlockSamples, tables: Path) -> tuple[list[Check], float]:
    """Checks that need fits of their own; see `check_random_blocks` for the correlation."""
    rows, settings = read_table_rows(tables, plan.superspace), plan.settings
    checks, correlation = check_random_blocks(samples, rows, settings)
    _log("20% of the blocks held out")
    checks += check_sizes("resolution 192", samples, rows, _HEIGHTS_192, settings)
    _log("resolution 192 held out")
    if plan.new_resolutions:
        (model, _), others = fit(samples, settings), plan.new_resolutions(tables)
        for resolution, heights in _NEW_RESOLUTIONS.items():
            checks.append(check_blocks(f"resolution {resolution}, blocks", model,
                                       others.take(np.isin(others.heights, heights))))
        _log("resolutions 176 and 208 held out")
    return checks, correlation


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
