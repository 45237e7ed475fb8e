"""What the demo shows at its end: a table and a figure."""
from __future__ import annotations

import json
from pathlib import Path

from modules.demo.runner import read_rows
from modules.demo.supernet import SupernetDemo
from modules.deploy.check.agreement import Agreement
from modules.deploy.naming import model_path
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import wilson_interval
from modules.utils.figures import new_figure, save_figure
from modules.utils.results import format_table


def summarize(demo: SupernetDemo, figures: list[Path]) -> None:
    """Print the table of subnets and the paths of all figures; draw accuracy over latency."""
    accuracy = {(row["enc"], row["quant_mode"]): row for row in read_rows(demo.output / "accuracy.csv")}
    latency = {row["name"]: row for row in read_rows(demo.output / "latency.csv")}
    rows, points = [], {}
    for name, choice in demo.subnets.items():
        macs, params = count_net_flops_and_params(resolve(demo.space, choice, 10))
        fp32, times = accuracy[str(choice), "0"], latency[f"{demo.space}-{choice}"]
        agreement = _agreement(demo, choice)
        points[name] = (float(times["int8_ms"]), agreement.top1_model)
        rows.append({
            "subnet": name, "pixels": choice.resolution, "MMACs": f"{macs:.2f}", "Mparams": f"{params:.2f}",
            "fp32 acc, %": _with_interval(float(fp32["acc1"]), int(fp32["images"])),
            "int8 acc, %": _with_interval(agreement.top1_model, agreement.images),
            "fp32 ms": f"{float(times['fp32_ms']):.2f}", "int8 ms": f"{float(times['int8_ms']):.2f}",
            "images that differ": f"{agreement.differing} of {agreement.images}"})
    _draw(points, demo.output / "accuracy_over_latency.png")
    print(f"\nSubnets of {demo.space}, measured on this machine with onnxruntime on one thread. int8:\n"
          "the exported model; images that differ: in top-1 from the fake-quantised network; brackets: 95% interval.\n"
          "Limits are those of the search, on predicted latency; accuracy is on images it never saw.\n")
    print(format_table(rows))
    folder = demo.checkpoints / f"{demo.space}-align0"
    print("\nFigures:")
    for path in (*figures, folder / "curves.png", folder / "lsq_curves.png",
                 demo.output / f"{demo.space.superspace}-latency_cdf.png", demo.found / "search.png",
                 demo.output / "accuracy_over_latency.png"):
        print(f"  {path}")


def _agreement(demo: SupernetDemo, choice: SubnetChoiceConfig) -> Agreement:
    manifest = Path(f"{model_path(demo.models, demo.space, choice, True)}.json")
    return Agreement(**json.loads(manifest.read_text())["agreement"])


def _with_interval(percent: float, images: int) -> str:
    low, high = wilson_interval(percent / 100, images)
    return f"{percent:.1f} [{low:.1f}, {high:.1f}]"


def _draw(points: dict[str, tuple[float, float]], path: Path) -> None:
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name, (ms, percent) in points.items():
        axes.plot(ms, percent, "o")
        axes.annotate(name, (ms, percent), xytext=(6, -4), textcoords="offset points", fontsize=9)
    axes.set(xlabel="measured int8 latency, ms", ylabel="int8 top-1, %", title="Exported subnets")
    axes.margins(x=0.2, y=0.2)
    axes.grid(alpha=0.3)
    save_figure(figure, path)
