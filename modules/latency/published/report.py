"""The report of a fitted published platform: errors on held-out blocks, published networks, a figure."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.latency.fitted.block_model import BlockModel
from modules.latency.fitted.platform import ModelPlatform
from modules.latency.prediction import NORMAL_90
from modules.latency.published.checks import Check
from modules.modeling.complexity import blocks_of
from modules.modeling.net_spec import NetSpec, resolve
from modules.modeling.spec import BlockArgs
from modules.search_space.published import find_published, published_names
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.figures import new_figure, save_figure
from modules.utils.files import atomic_write

# Results of an earlier reconstruction of the published predictions, in ms. Like the published predictor, it charges
# each block of stage0 of a mobile superspace for an expansion that the block does not have.
RECONSTRUCTED = {
    "SEQnet@pixel4-A0": 7.41, "SEQnet@pixel4-A1": 15.11, "SEQnet@pixel4-A2": 20.29, "SEQnet@pixel4-A3": 29.55,
    "SEQnet@pixel4-A4": 37.31, "SEQnet@vnni-A0": 5.84, "SEQnet@vnni-A1": 9.53, "SEQnet@vnni-A2": 15.02,
    "SEQnet@vnni-A3": 19.30, "SEQnet@vnni-A4": 27.53, "spaceevo@pixel4 min": 7.4, "spaceevo@pixel4 max": 178.9,
    "spaceevo@pixel4-tiny min": 5.1, "spaceevo@pixel4-tiny max": 106.3, "spaceevo@pixel4-medium min": 6.7,
    "spaceevo@pixel4-medium max": 166.6, "spaceevo@vnni min": 5.8, "spaceevo@vnni max": 80.8,
    "spaceevo@vnni-large min": 8.1, "spaceevo@vnni-large max": 80.8}
_SUPERSPACE = {"tflite27_cpu_int8": "mobilew", "onnx_lut": "onnxw"}


def published_nets(platform: str) -> dict[str, NetSpec]:
    """The published networks of a platform's superspace, and the extremes of its supernets, by name."""
    nets = {}
    for name in published_names():
        _, _, config, choice = find_published(name)
        if config.superspace != _SUPERSPACE[platform]:
            continue
        if choice is None:
            for pick in (min, max):
                nets[f"{name} {pick.__name__}"] = resolve(
                    config, SubnetSpace(config, config.space.resolutions).extreme(pick))
        else:
            nets[name] = resolve(config, choice)
    return nets


def net_rows(platform: str, model: ModelPlatform) -> list[dict]:
    """For each published network: the platform's prediction with its 90% interval, and the earlier reconstruction."""
    nets = published_nets(platform)
    predictions = model.predict_subnets(list(nets.values()))
    rows = []
    for i, (name, spec) in enumerate(nets.items()):
        ms, half, earlier = predictions.ms[i], NORMAL_90 * predictions.std[i], RECONSTRUCTED[name]
        charged = ms + absent_expansions_ms(model, spec)
        rows.append({"net": name, "ms": predictions.text(i), "90% interval": f"{ms - half:.2f} to {ms + half:.2f}",
                     "with absent expansions": f"{charged:.2f}", "earlier": f"{earlier:g}",
                     "difference": f"{100 * (charged / earlier - 1):+.1f}%"})
    return rows


def absent_expansions_ms(model: ModelPlatform, spec: NetSpec) -> float:
    """Latency of the 1 x 1 convolutions that the published predictor adds to MobileNet blocks of expand ratio 1."""
    plain = [(block.cin, hw) for block, hw in blocks_of(spec) if block.kind == "MobileNetV2" and block.expand == 1]
    blocks, hws = [BlockArgs("Conv", cin, cin, 1, None, 1, "relu") for cin, _ in plain], [hw for _, hw in plain]
    return float(model.predict_blocks(blocks, hws).ms.sum())


def write_report(folder: Path, platform: str, checks: Sequence[Check], model: BlockModel, blocks: int,
                 fitted: ModelPlatform) -> None:
    """Write report.md and report.png into `folder`."""
    spread = model.spread
    text = [f"# {platform}", "",
            f"`model.npz` was fitted to {blocks:,} blocks. Written by", "",
            f"    python -m modules.latency.published --tables ../shared/published --output data/latency "
            f"--platform {platform}", "",
            "## Held out of the fit", "",
            "Errors in percent: predicted / published - 1. Each line is a fit of its own without the named blocks; "
            "`model.npz` was fitted to all blocks.", "",
            _markdown([check.row() for check in checks]), "",
            "![errors](report.png)", "",
            "## Uncertainty", "",
            "Standard deviations come from cross-validation. For sizes and types that were left out, they come from "
            "the worst part. For a block of a fitted type and size the factor to the "
            f"trees' scale is {spread.factors[0]:.2f}; for an input size between fitted ones {spread.factors[1]:.2f}; "
            f"for an extrapolation (another type, or widths and sizes beyond the fitted ones) {spread.factors[2]:.2f}. "
            f"Errors of two blocks of one network are taken to have a correlation of {spread.correlation:g}, which "
            "makes the 90% intervals of whole rows cover 90% of them as nearly as it can.", "",
            "## Published networks", "",
            "Milliseconds at batch 1, one thread. \"earlier\" is another reconstruction of the published predictions. "
            "Like these it charges every MobileNetV2 block of expand ratio 1 (stage0 of the mobile superspaces) for an "
            "expansion that it does not have. The column before adds that expansion; the difference is between these "
            "two columns.", "",
            _markdown(net_rows(platform, fitted)), ""]
    with atomic_write(folder / "report.md") as file:
        file.write("\n".join(text))
    draw_checks(folder / "report.png", platform, checks)


def _markdown(rows: Sequence[dict]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_checks(path: Path, platform: str, checks: Sequence[Check]) -> None:
    """Predicted over published latency of the first check, and the share of all within an error, as PNG."""
    figure = new_figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    first = checks[0]
    cells = left.hexbin(first.true, first.predicted, xscale="log", yscale="log", gridsize=70, bins="log", mincnt=1,
                        cmap="viridis", linewidths=0.1)
    figure.colorbar(cells, ax=left, label="blocks")
    ends = [first.true.min(), first.true.max()]
    left.plot(ends, ends, color="black", linewidth=0.8)
    left.set(xlabel="published, ms", ylabel="predicted, ms", title=f"{platform}: {first.name}, held out")
    for check in checks:
        size = np.sort(np.abs(check.errors)) * 100
        right.plot(size, np.arange(1, len(size) + 1) / len(size), linewidth=1.2, label=check.name,
                   linestyle="--" if check.name.startswith("all ") else "-")
    right.set(xlabel="absolute error, %", ylabel="share within", xlim=(0.1, 100), xscale="log", ylim=(0, 1),
              title="held out")
    right.grid(alpha=0.3)
    right.legend(fontsize=7)
    save_figure(figure, path)
