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
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_timing_arguments, refuse_beside_files
from modules.utils.cli import make_parser, run
from modules.utils.errors import UserError
from modules.utils.settings import THREADS, option

BASELINES = ("static", "openvino")
REFERENCE = ("", "reference")  # among the timed files


def parse_args(argv):
    parser = make_parser(__doc__)
    add_timing_arguments(parser, "onnx", BASELINES)
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

    from modules.deploy.timing import time_given

    usual = open_usual_reference() if args.usual_speed else ({}, 0.0)  # its cache is that of the cores before pin
    time_given(args, OnnxTimer(args, pin(args.threads), *usual), models, BASELINES, args.together)


def models(args, space, choice):
    """The fp32 and int8 file of a network, and the baselines as sessions."""
    from modules.deploy.naming import model_path
    from modules.deploy.to_onnx.static_baseline import static_quantized
    from modules.runtime.engines import engines

    fp32, int8 = (model_path(args.model_dir, space, choice, quantized, args.uint8_input) for quantized in (False, True))
    if int8.is_file() and not fp32.is_file():
        raise UserError(f"model {str(fp32)!r} does not exist; export it too, without --quant_mode, or time the int8 "
                        f"file alone: --model_path {int8}")
    kinds = {"fp32": fp32, "int8": int8}
    if "static" in args.baselines:
        kinds["static"] = engines["onnxruntime"].open(static_quantized(fp32), args.threads)
    if "openvino" in args.baselines:
        kinds["openvino"] = engines["openvino"].open(int8, args.threads)
    return kinds


@dataclass(frozen=True)
class OnnxTimer:
    """onnxruntime on this machine, which keeps to `cores`. With a `reference` in the same turns, latencies are scaled
    to the speed at which it takes `usual_ms`."""

    args: Namespace
    cores: str
    reference: dict
    usual_ms: float

    def describe(self):
        """The threads and their cores, the processor, the versions of the runtimes, and the clock."""
        from importlib.metadata import PackageNotFoundError, version

        from modules.utils.files import machine

        versions = {}
        for package in ("onnxruntime", "openvino"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = ""
        clock = ("processor" if self.args.processor_time else "wall") + ", usual speed" * self.args.usual_speed
        return {"threads": self.args.threads, "cores": self.cores, "cpu": machine()["cpu"], **versions, "clock": clock}

    def measure(self, models):
        """Time files and sessions, in turns; sessions have no peak memory."""
        from modules.latency.profile.measure import typical
        from modules.runtime.engines import engines
        from modules.runtime.session import summarize, time_interleaved
        from modules.runtime.timers import Measured

        ort, args = engines["onnxruntime"], self.args
        files = [key for key, model in models.items() if isinstance(model, Path)]
        sessions = {**models, **{key: ort.open(models[key], args.threads) for key in files}}
        times = time_interleaved(sessions | self.reference, args.num_runs, args.warmup_runs,
                                 time.process_time if args.processor_time else time.perf_counter)
        figures = {key: summarize(times[key]) for key in models}
        if self.reference:
            now_ms = typical(times[REFERENCE])
            print(f"the machine is {now_ms / self.usual_ms:.2f} times as slow as usual; latencies are scaled")
            scaled = {key: times[key] * self.usual_ms / now_ms for key in models}
            figures = {key: (typical(values), summarize(values)[1]) for key, values in scaled.items()}
        memory = {key: ort.peak_memory_mb(models[key], args.threads) for key in files}
        return {key: Measured(*figures[key], memory.get(key)) for key in models}


def open_usual_reference():
    """The reference block of `--platform onnxruntime_int8` as a session, and its usual latency in ms."""
    from modules.latency import get_platform
    from modules.runtime.ort import open_session

    content, usual_ms = get_platform("onnxruntime_int8").usual_reference()
    return {REFERENCE: open_session(content)}, usual_ms


def pin(threads):
    """Keep the process on the last `threads` cores it may use, if the system can; returns these cores."""
    if not hasattr(os, "sched_setaffinity"):
        return "any"
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return " ".join(map(str, cores))


if __name__ == "__main__":
    run(main)
