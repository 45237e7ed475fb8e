"""Time fp32 and int8 ONNX files of the same subnets under onnxruntime, in turns, and append to latency.csv.

    python onnx_tools/export_onnx.py --skip_weights && python onnx_tools/benchmark.py
    python onnx_tools/benchmark.py --baselines static openvino
    python onnx_tools/benchmark.py --model_path data/models/cifar10/*.onnx --num_runs 400

The last form times given files, whatever they are, all in the same turns. It writes no csv.

The baselines run in the same turns. `static` is onnxruntime's own static quantisation of the fp32 file; `openvino` is
our int8 file under OpenVINO (an extra package). Figures are medians, or with --usual_speed means of the fastest
quarter; the spread is half the distance between the 10th and 90th percentile; speedup is fp32 over int8. One thread by
default, on one core. The latencies go into the cards of exported models, too.
"""
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_subnets_argument, given_subnets, refuse_beside_files
from modules.utils.cli import make_parser, run
from modules.utils.errors import UserError
from modules.utils.settings import THREADS, option

BASELINES = ("static", "openvino")
REFERENCE = ("", "reference")  # among the timed files


def parse_args(argv):
    parser = make_parser(__doc__)
    add_subnets_argument(parser, "onnx_tools")
    option(parser, "--model_path", (), "model files to time instead", kind=str, many="+")
    option(parser, "--model_dir", "checkpoints/models/onnx_model", "folder of the files of export_onnx.py")
    option(parser, "--output", "onnx_tools/latency.csv", "csv file; lines are appended")
    option(parser, "--baselines", (), "other ways to int8 in the same turns", kind=str, many="*", choices=BASELINES)
    option(parser, "--uint8_input", False, "use the files of export_onnx.py --uint8_input")
    THREADS.add_to(parser, "--threads")
    option(parser, "--num_runs", 100, "timed runs", low=1)
    option(parser, "--warmup_runs", 20, "runs before", low=0)
    option(parser, "--together", False, "all networks in the same turns: their latencies compare on a noisy machine; "
           "lines are written at the end")
    option(parser, "--usual_speed", False, "scale latencies by a reference block in the same turns to the speed that "
           "the machine had when `--platform onnxruntime_int8` was first used")
    option(parser, "--processor_time", False, "leave out the time in which other processes had the core, on a machine "
           "that is shared")
    args = parser.parse_args(argv)
    if args.processor_time and args.threads > 1:
        raise UserError(f"--processor_time adds up the time of all threads; allowed: --threads 1, not {args.threads}")
    refuse_beside_files(args, parser, ("uint8_input",))
    return args


def main(argv=None):
    args = parse_args(argv)

    usual = open_usual_reference() if args.usual_speed else ({}, 0.0)  # its cache is that of the cores before pin
    constants = {"threads": args.threads, "cores": pin(args.threads), **describe(),
                 "clock": ("processor" if args.processor_time else "wall") + ", usual speed" * args.usual_speed}
    if args.model_path:
        time_files(args, usual, constants)
    else:
        time_subnets(args, usual, constants)


def time_files(args, usual, constants):
    """Time the files of --model_path in the same turns."""
    from modules.deploy.cards.card import add_latency, check_cards
    from modules.deploy.cards.report import latency_rows, megabytes_text
    from modules.runtime.engines import engines
    from modules.utils.results import format_table

    ort = engines["onnxruntime"]
    check_cards(args.model_path)
    figures = measure(args, usual, {path: ort.open(path, args.threads) for path in args.model_path})
    print(format_table(latency_rows(figures)), flush=True)
    for path, (ms, spread) in figures.items():
        memory = megabytes_text(ort.peak_memory_mb(path, args.threads))
        add_latency(path, {"ms": ms, "spread_ms": spread, "peak_mb": memory, **constants})


def time_subnets(args, usual, constants):
    """Time the fp32 and int8 files of the given networks, and append to the csv."""
    from modules.deploy.cards.card import add_latency
    from modules.deploy.cards.report import speedup_lines
    from modules.deploy.naming import model_path
    from modules.search_space.reference import reference_to
    from modules.utils.results import append_row

    ratios, given = [], list(given_subnets(args))
    for group in [given] if args.together else [[network] for network in given]:
        opened = []
        for network in group:
            paths = {name: model_path(args.model_dir, *network, name == "int8", args.uint8_input)
                     for name in ("fp32", "int8")}
            if paths["int8"].is_file() and not paths["fp32"].is_file():
                raise UserError(f"model {str(paths['fp32'])!r} does not exist; export it too, without --quant_mode, or "
                                f"time the int8 file alone: --model_path {paths['int8']}")
            opened.append((reference_to(*network), paths, *open_subnet(args, paths)))
        measured = measure(args, usual, {(network, name): session for network, _, sessions, _ in opened
                                  for name, session in sessions.items()})
        for network, paths, sessions, memory in opened:
            figures = {name: measured[network, name] for name in sessions}
            speedup = figures["fp32"][0] / figures["int8"][0]
            append_row(args.output, row(network, figures, speedup) | constants | memory)
            for name in ("fp32", "int8"):
                add_latency(paths[name], {
                    "ms": figures[name][0], "spread_ms": figures[name][1], "peak_mb": memory[f"{name}_peak_mb"],
                    **constants})
            print(f"{network}: {', '.join(f'{name} {ms:.2f} ms' for name, (ms, _) in figures.items())}, "
                  f"{speedup:.2f}x", flush=True)
            ratios.append({name: figures[name][0] / figures["int8"][0] for name in figures if name != "int8"})
    print("\n".join(speedup_lines(ratios)))


def measure(args, usual, sessions):
    """Latency and spread in ms of every session, by its key; all run in turns."""
    from modules.latency.profile.measure import typical
    from modules.runtime.session import summarize, time_interleaved

    reference, usual_ms = usual
    times = time_interleaved(sessions | reference, args.num_runs, args.warmup_runs,
                             time.process_time if args.processor_time else time.perf_counter)
    if not reference:
        return {key: summarize(times[key]) for key in sessions}
    now_ms = typical(times[REFERENCE])
    print(f"the machine is {now_ms / usual_ms:.2f} times as slow as usual; latencies are scaled")
    times = {key: values * usual_ms / now_ms for key, values in times.items()}
    return {key: (typical(times[key]), summarize(times[key])[1]) for key in sessions}


def open_usual_reference():
    """The reference block of `--platform onnxruntime_int8` as a session, and its usual latency in ms."""
    from modules.latency import get_platform
    from modules.runtime.engines import engines

    content, usual_ms = get_platform("onnxruntime_int8").usual_reference()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.onnx"
        path.write_bytes(content)
        return {REFERENCE: engines["onnxruntime"].open(path, 1)}, usual_ms


def open_subnet(args, paths):
    """The sessions of one subnet, and the peak memory of our two."""
    from modules.deploy.cards.report import megabytes_text
    from modules.deploy.to_onnx.static_baseline import static_quantized
    from modules.runtime.engines import engines

    ort = engines["onnxruntime"]
    sessions = {name: ort.open(path, args.threads) for name, path in paths.items()}
    if "static" in args.baselines:
        sessions["static"] = ort.open(static_quantized(paths["fp32"]), args.threads)
    if "openvino" in args.baselines:
        sessions["openvino"] = engines["openvino"].open(paths["int8"], args.threads)
    peaks = {name: ort.peak_memory_mb(path, args.threads) for name, path in paths.items()}
    return sessions, {f"{name}_peak_mb": megabytes_text(peak) for name, peak in peaks.items()}


def row(name, figures, speedup):
    """The published columns, then the spreads and the baselines."""
    columns = {"name": name, "fp32_ms": f"{figures['fp32'][0]:.3f}", "int8_ms": f"{figures['int8'][0]:.3f}",
               "speedup": f"{speedup:.2f}", "fp32_spread_ms": f"{figures['fp32'][1]:.3f}",
               "int8_spread_ms": f"{figures['int8'][1]:.3f}"}
    for baseline in BASELINES:
        median, spread = (f"{value:.3f}" for value in figures[baseline]) if baseline in figures else ("", "")
        columns |= {f"{baseline}_ms": median, f"{baseline}_spread_ms": spread}
    return columns


def pin(threads):
    """Keep the process on the last `threads` cores it may use, if the system can; returns these cores."""
    if not hasattr(os, "sched_setaffinity"):
        return "any"
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return " ".join(map(str, cores))


def describe():
    """The processor, and the versions of the runtimes."""
    from importlib.metadata import PackageNotFoundError, version

    from modules.utils.files import machine

    versions = {}
    for package in ("onnxruntime", "openvino"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    return {"cpu": machine()["cpu"], **versions}


if __name__ == "__main__":
    run(main)
