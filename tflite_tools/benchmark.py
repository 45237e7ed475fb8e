"""Time fp32 and int8 TFLite files of the same subnets, here under LiteRT or on a phone, and append to latency.csv.

    python tflite_tools/benchmark.py
    python tflite_tools/benchmark.py --baselines converter
    python tflite_tools/benchmark.py --adb --use_xnnpack --output tflite_tools/latency_phone.csv
    python tflite_tools/benchmark.py --model_path one.tflite other.tflite

The last form times given files, whatever they are. It writes no csv.

A missing file is written here with random weights. The baseline `converter` is the int8 file of TensorFlow's converter
by post-training quantisation (export_keras.py writes it with trained weights). On this machine all run in turns;
figures are medians, the spread is half the distance between the 10th and 90th percentile. On a phone, TFLite's
benchmark_model runs one file after the other; figures are its means, the spread its standard deviation. One thread by
default. The latencies go into the cards of exported models, too.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_subnets_argument, given_subnets, refuse_beside_files
from modules.runtime.phone.benchmark_model import PhoneRun
from modules.utils.cli import given_options, make_parser, run
from modules.utils.errors import UserError
from modules.utils.settings import THREADS, option

BASELINES = ("converter",)
ON_PHONE = ("serial_number", "benchmark_binary_dir", "bin_name", "taskset_mask", "skip_push", "use_xnnpack")


def parse_args(argv):
    parser = make_parser(__doc__)
    add_subnets_argument(parser, "tflite_tools")
    option(parser, "--model_path", (), "model files to time instead", kind=str, many="+")
    option(parser, "--model_dir", "checkpoints/models/tflite_model", "folder of the files of export_tflite.py")
    option(parser, "--output", "tflite_tools/latency.csv", "csv file; lines are appended")
    option(parser, "--baselines", (), "other ways to int8 in the same turns", kind=str, many="*", choices=BASELINES)
    THREADS.add_to(parser, "--num_threads")
    option(parser, "--num_runs", 100, "timed runs, of which a spread is reported", low=2)
    option(parser, "--warmup_runs", 20, "runs before", low=0)
    phone = parser.add_argument_group("on a phone")
    option(phone, "--adb", False, "time on a phone, through adb")
    option(phone, "--serial_number", "", "serial number of the phone, if there are several")
    option(phone, "--benchmark_binary_dir", PhoneRun.binary_dir, "folder on the phone that holds the benchmark "
           "program, and gets the models")
    option(phone, "--bin_name", PhoneRun.bin_name, "name of the benchmark program")
    option(phone, "--taskset_mask", PhoneRun.taskset_mask, "cores to stay on, hexadecimal")
    option(phone, "--skip_push", False, "the models are on the phone already")
    option(phone, "--use_xnnpack", False, "with XNNPACK; without it, export with --plain_depthwise")
    args = parser.parse_args(argv)
    refuse_beside_files(args, parser, ())
    unused = [] if args.adb else given_options(args, parser, ON_PHONE)
    if unused:
        raise UserError(f"--{unused[0]} without --adb, which times on a phone")
    return args


def main(argv=None):
    args = parse_args(argv)

    from modules.runtime.phone.adb import Adb
    from modules.runtime.timers import LocalTimer, PhoneTimer

    timer = LocalTimer(args.num_threads, args.num_runs, args.warmup_runs)
    if args.adb:
        timer = PhoneTimer(Adb(args.serial_number), PhoneRun(
            args.benchmark_binary_dir, args.bin_name, args.taskset_mask, args.num_threads, args.num_runs,
            args.warmup_runs, args.use_xnnpack), args.skip_push)
    if args.model_path:
        time_files(args, timer)
    else:
        time_subnets(args, timer)


def time_files(args, timer):
    """Time the files of --model_path; here they run in turns."""
    from modules.deploy.cards.card import check_cards
    from modules.deploy.cards.report import latency_rows
    from modules.utils.results import format_table

    check_cards(args.model_path)
    times, machine = timer.measure({path: Path(path) for path in args.model_path}), timer.describe()
    print(format_table(latency_rows({path: (m.ms, m.spread_ms) for path, m in times.items()})), flush=True)
    for path, measured in times.items():
        keep(path, measured, args, machine)


def keep(path, measured, args, machine):
    """Write a latency to the card of the file."""
    from modules.deploy.cards.card import add_latency
    from modules.deploy.cards.report import megabytes_text

    memory = megabytes_text(measured.memory_mb)
    add_latency(path, {"ms": measured.ms, "spread_ms": measured.spread_ms, "peak_mb": memory,
                       "threads": args.num_threads, **machine, "engine": measured.engine})


def time_subnets(args, timer):
    """Time the fp32 and int8 files of the given networks, and append to the csv."""
    from modules.deploy.cards.report import megabytes_text, speedup_lines
    from modules.deploy.export import timed_files
    from modules.deploy.to_tflite.export import TfliteFormat
    from modules.deploy.to_tflite.float_writer import Form
    from modules.search_space.reference import reference_to
    from modules.utils.results import append_row

    subnets, machine, ratios = given_subnets(args), timer.describe(), []
    form = TfliteFormat(Form(grouped=args.use_xnnpack or not args.adb))
    for space, choice in subnets:
        paths = timed_files(space, choice, args.model_dir, form, write=not args.skip_push)
        if "converter" in args.baselines:
            from modules.deploy.to_keras.export import converted

            paths["converter"] = converted(args.model_dir, space, choice)
        times = timer.measure(paths)
        fp32, int8 = times["fp32"], times["int8"]
        for name, measured in times.items():
            keep(paths[name], measured, args, machine)
        print(f"{reference_to(space, choice)}: {', '.join(f'{name} {m.ms:.2f} ms' for name, m in times.items())}, "
              f"{fp32.ms / int8.ms:.2f}x ({int8.engine})", flush=True)
        ratios.append({name: m.ms / int8.ms for name, m in times.items() if name != "int8"})
        append_row(args.output, {
            "name": reference_to(space, choice), "fp32_ms": f"{fp32.ms:.3f}", "int8_ms": f"{int8.ms:.3f}",
            "speedup": f"{fp32.ms / int8.ms:.2f}", "fp32_spread_ms": f"{fp32.spread_ms:.3f}",
            "int8_spread_ms": f"{int8.spread_ms:.3f}", "threads": args.num_threads, **machine,
            "engine": int8.engine, "fp32_peak_mb": megabytes_text(fp32.memory_mb),
            "int8_peak_mb": megabytes_text(int8.memory_mb), **_baseline_columns(times)})
    print("\n".join(speedup_lines(ratios)))


def _baseline_columns(times):
    columns = {}
    for name in BASELINES:
        measured = times.get(name)
        columns |= {f"{name}_ms": f"{measured.ms:.3f}" if measured else "",
                    f"{name}_spread_ms": f"{measured.spread_ms:.3f}" if measured else "",
                    f"{name}_engine": measured.engine if measured else ""}
    return columns


if __name__ == "__main__":
    run(main)
