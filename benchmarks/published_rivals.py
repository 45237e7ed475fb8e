"""Published accuracy over INT8 latency measured here: the ten SEQnets and what one would take instead.

    OMP_NUM_THREADS=1 python benchmarks/published_rivals.py

Exports every network of published_rivals.csv with random weights and times all of them in the same turns, on one
thread. Accuracies are top-1 on ImageNet, in percent, as their authors published them; the authors' README gives none
for the SEQnets, so these have latencies only. Writes rivals.csv and rivals.png into --output. The machine should be
otherwise idle; it takes a minute.
"""
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from modules.utils.cli import make_parser, run  # noqa: E402
from modules.utils.settings import option  # noqa: E402

LISTING = REPOSITORY / "benchmarks" / "published_rivals.csv"


def parse_args(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--output", "results/published_rivals", "folder of the files, the table and the figure")
    option(parser, "--num_runs", 60, "timed runs", low=1)
    option(parser, "--weight_bits", 8, "bits of the weights; 7 are quicker on x86 without VNNI", low=2, high=8)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)

    from modules.pipeline.runner import run_script
    from modules.utils.csv_files import read_records
    from modules.utils.results import format_table, write_rows

    folder = Path(args.output).resolve()
    listed = {row["network"]: row for _, row in read_records(LISTING, "networks", ("network", "top1", "int8_top1"))}
    run_script(["onnx_tools/export_onnx.py", "--network", *listed, "--skip_weights", "--weight_bits",
                args.weight_bits, "--output_dir", folder], 1)
    latency = folder / "latency.csv"
    latency.unlink(missing_ok=True)
    run_script(["onnx_tools/benchmark.py", "--network", *listed, "--model_dir", folder, "--output", latency,
                "--together", "--usual_speed", "--num_runs", args.num_runs], 1)
    times = [row for _, row in read_records(latency, "latencies", ("name", "int8_ms"))]
    rows = [row(given, measured) for given, measured in zip(listed.values(), times, strict=True)]
    rows.sort(key=lambda entry: float(entry["int8_ms"]))
    write_rows(folder / "rivals.csv", rows)
    draw(rows, folder / "rivals.png")
    print(format_table(rows))


def row(given: dict, measured: dict) -> dict:
    """A line of the table, from one of published_rivals.csv and one of onnx_tools/benchmark.py."""
    from modules.modeling.complexity import count_net_flops_and_params
    from modules.modeling.net_spec import resolve
    from modules.search_space.reference import read_network

    network = read_network(given["network"])
    macs, params = count_net_flops_and_params(resolve(network.space, network.subnet, 1000))
    return {"network": given["network"], "pixels": network.subnet.resolution, "M MACs": f"{macs:.0f}",
            "M params": f"{params:.2f}", "top1": given["top1"], "int8_top1": given["int8_top1"],
            **{name: measured[name] for name in ("int8_ms", "int8_spread_ms", "fp32_ms")}}


def draw(rows: list[dict], path: Path) -> None:
    """Accuracy over latency; a network without a published accuracy is a line at its latency."""
    from modules.utils.figures import COLOURS, new_figure, save_figure

    figure = new_figure(7.5, 4.5)
    axes = figure.subplots()
    for entry in rows:
        ms = float(entry["int8_ms"])
        if entry["top1"]:
            axes.plot(ms, float(entry["top1"]), "o", color=COLOURS[0])
            axes.annotate(entry["network"], (ms, float(entry["top1"])), textcoords="offset points", fontsize=7,
                          xytext=(5, 4 if "lite" in entry["network"] else -9))
        else:
            colour = COLOURS[1 if "vnni" in entry["network"] else 2]
            axes.axvline(ms, color=colour, linewidth=1, alpha=0.6)
            axes.annotate(entry["network"].removeprefix("SEQnet@"), (ms, 0.01), xycoords=("data", "axes fraction"),
                          rotation=90, fontsize=6, ha="right", color=colour)
    axes.set(xlabel="int8 ms, measured here, one thread", ylabel="ImageNet top-1 as published, %")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


if __name__ == "__main__":
    run(main)
