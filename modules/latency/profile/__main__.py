"""Make a latency platform of a device.

    python -m modules.latency.profile --backend onnxruntime --superspace onnxw --output my_cpu
    python eval_supernet.py --superspace onnxw --supernet_choice 151122-023231 --mode lat --platform my_cpu

Measures some hundred blocks of the superspace and some ten whole networks as int8 models, fits a predictor, corrects it
on whole networks, and validates it on others. The folder --output (a plain name: in the user's cache) then holds
platform.json, which describes device and validation, the predictor, all measurements and report.png. After a kill,
--resume continues; nothing is measured twice.

Other devices: --device ssh:[user@]host runs python3 with numpy and the runtime on that machine; --device adb[:serial]
runs TFLite's benchmark_model on a phone.
"""
from __future__ import annotations

import itertools
from dataclasses import MISSING
from pathlib import Path

from modules.latency.platform import is_built_in
from modules.latency.profile.models import BACKENDS
from modules.latency.profile.plan import FEWEST, Settings
from modules.latency.profile.profiled import user_folder
from modules.latency.profile.session import Session
from modules.latency.profile.zen_nets import resolutions_of
from modules.runtime.devices import DeviceOptions, open_device
from modules.runtime.phone.benchmark_model import PhoneRun
from modules.utils.cli import add_run_arguments, make_parser, run
from modules.utils.errors import UserError
from modules.utils.processes import LOCK_FILE
from modules.utils.results import format_table
from modules.utils.runs import Run, check_free
from modules.utils.settings import BATCH, PIXELS, SEED, THREADS, option


def parse_args(argv):
    """The command line."""
    parser = make_parser(__doc__)
    option(parser, "--backend", MISSING, "runtime", kind=str, choices=BACKENDS)
    option(parser, "--superspace", MISSING, "superspace, such as onnxw, mobilew, onnxw_tiny; zen_cifar, zen_flops or "
           "zen_latency: Zen structures", kind=str)
    option(parser, "--output", MISSING, "name of the platform, or a folder's path", kind=str, metavar="NAME")
    option(parser, "--device", "local", "machine to measure on: local, ssh:[user@]host or adb[:serial]")
    option(parser, "--remote_python", "python3", "interpreter on a machine behind ssh")
    option(parser, "--binary_dir", PhoneRun.binary_dir, "folder of benchmark_model on the phone")
    option(parser, "--bin_name", PhoneRun.bin_name, "name of the program there")
    option(parser, "--taskset_mask", PhoneRun.taskset_mask, "cores of the phone, hexadecimal; '' for any")
    option(parser, "--use_xnnpack", False, "with XNNPACK on the phone; a local litert always has it")
    THREADS.add_to(parser, "--threads", default=(1,), many="+", meaning="threads, one platform for each number; the "
                   "name of all but the first of threads and batch sizes gets _t<threads>_b<batch> appended")
    option(parser, "--batch_sizes", (1,), "batch sizes, one platform for each", many="+", **BATCH)
    option(parser, "--cpus", (), "cores to stay on", kind=int, many="+", low=0, high=4095, shown="the last ones")
    option(parser, "--resolutions", (), "resolutions", kind=int, many="+", shown="the superspace's", **PIXELS)
    option(parser, "--blocks", Settings.blocks, "blocks to fit to", low=FEWEST["blocks"])
    option(parser, "--correction_nets", Settings.correction_nets, "networks to correct sums of blocks with",
           low=FEWEST["correction_nets"])
    option(parser, "--test_nets", Settings.test_nets, "networks to validate on", low=FEWEST["test_nets"])
    option(parser, "--minutes", 10.0, "time to measure; blocks beyond that are left out", above=0, unit="minutes")
    option(parser, "--memory", False, "also measure the peak memory of the test networks")
    option(parser, "--weight_bits", Settings.weight_bits, "bits of weights; 7, for networks trained with "
           "--quant_weight_bits 7, are quicker on x86 without VNNI", low=2, high=8)
    SEED.add_to(parser, "--seed")
    add_run_arguments(parser, "profile")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """One platform for each number of threads and batch size."""
    args = parse_args(argv)
    names = {args.output.rstrip("/") + (f"_t{threads}_b{batch}" if i else ""): (threads, batch)
             for i, (threads, batch) in enumerate(itertools.product(args.threads, args.batch_sizes))}
    check_free(open_run(args, name) for name in names)
    for name, (threads, batch) in names.items():
        make_platform(args, name, threads, batch)


def folder_of(name: str) -> Path:
    """The folder of the platform `name`: a path, or a plain name in the user's folder."""
    return user_folder() / name if Path(name).name == name else Path(name)


def open_run(args, name: str) -> Run:
    """The run of a profile, to be entered."""
    return Run(folder_of(name) / "plan.json", files=("*",), resume=args.resume, overwrite=args.overwrite,
               option="--output")


def make_platform(args, name: str, threads: int, batch: int) -> None:
    """Profile one combination and print its errors."""
    resolutions = tuple(args.resolutions) or resolutions_of(args.superspace)
    options = DeviceOptions(args.cpus, args.remote_python, args.binary_dir, args.bin_name, args.taskset_mask,
                            args.use_xnnpack)
    settings = Settings(args.backend, args.superspace, resolutions, args.device, threads, batch, args.blocks,
                        args.correction_nets, args.test_nets, args.seed, args.weight_bits, options)
    if is_built_in(name):
        raise UserError(f"--output {name!r} is a platform of the program; give another name")
    folder = folder_of(name)
    with open_run(args, name) as opened:
        if not opened.found and any(path.name != LOCK_FILE for path in folder.iterdir()):
            raise UserError(f"{str(folder)!r} is not empty and holds no profile; name another folder")
        device = open_device(args.device, args.backend, threads, batch, options)
        try:
            record = Session(opened, settings, device, args.minutes, args.memory).run()
        finally:
            device.stop()
    for what, figures in record["validation"].items():
        print(f"\n{what} that were not fitted:\n" + format_table(
            [{"figure": key.replace("_", " "), "value": value} for key, value in figures.items()]))
    print(f"\n{record['configurations']} configurations in {record['seconds']:.0f} s. Use it with --platform {name}\n"
          f"Report: {folder / 'report.png'}")


if __name__ == "__main__":
    run(main)
