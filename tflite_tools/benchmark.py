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

from modules.deploy.arguments import add_timing_arguments, refuse_beside_files
from modules.runtime.phone.benchmark_model import PhoneRun
from modules.utils.cli import given_options, make_parser, run
from modules.utils.errors import UserError
from modules.utils.settings import THREADS, option

BASELINES = ("converter",)
ON_PHONE = ("serial_number", "benchmark_binary_dir", "bin_name", "taskset_mask", "skip_push", "use_xnnpack")


def parse_args(argv):
    parser = make_parser(__doc__)
    add_timing_arguments(parser, "tflite", BASELINES)
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

    from modules.deploy.timing import time_given
    from modules.runtime.phone.adb import Adb
    from modules.runtime.timers import LocalTimer, PhoneTimer

    timer = LocalTimer(args.num_threads, args.num_runs, args.warmup_runs)
    if args.adb:
        timer = PhoneTimer(Adb(args.serial_number), PhoneRun(
            args.benchmark_binary_dir, args.bin_name, args.taskset_mask, args.num_threads, args.num_runs,
            args.warmup_runs, args.use_xnnpack), args.skip_push)
    time_given(args, timer, models, BASELINES)


def models(args, space, choice):
    """The files of a network to time, by kind."""
    from modules.deploy.export import timed_files
    from modules.deploy.to_tflite.export import TfliteFormat
    from modules.deploy.to_tflite.float_writer import Form

    form = TfliteFormat(Form(grouped=args.use_xnnpack or not args.adb))
    paths = timed_files(space, choice, args.model_dir, form, write=not args.skip_push)
    if "converter" in args.baselines:
        from modules.deploy.to_keras.export import converted

        paths["converter"] = converted(args.model_dir, space, choice)
    return paths


if __name__ == "__main__":
    run(main)
