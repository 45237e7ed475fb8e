"""Make a latency platform of a device.

    python -m modules.latency.profile --backend onnxruntime --superspace onnxw --output my_cpu
    python eval_supernet.py --superspace onnxw --supernet_choice 151122-023231 --mode lat --platform my_cpu

Measures some hundred blocks of the superspace and some ten whole networks as int8 models, fits a predictor, corrects it
on whole networks, and validates it on others. The folder --output (a plain name: in the user's cache) then holds
platform.json, which describes device and validation, the predictor, all measurements and report.png. Killed and started
again with --resume, nothing is measured twice.

Other devices: --device ssh:[user@]host runs there what python3 there has installed (numpy and the runtime); --device
adb[:serial] runs TFLite's benchmark_model on a phone.
"""
from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from modules.latency.profile.models import WRITERS
from modules.latency.profile.plan import Settings
from modules.latency.profile.profiled import user_folder
from modules.latency.profile.session import Session, check_counts
from modules.runtime.devices import open_device
from modules.runtime.phone.benchmark_model import PhoneRun
from modules.search_space import get_superspace
from modules.utils.cli import make_parser, run
from modules.utils.errors import UserError
from modules.utils.results import format_table


def parse_args():
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--backend", required=True, choices=list(WRITERS), help="the runtime")
    parser.add_argument("--superspace", required=True)
    parser.add_argument("--output", required=True, metavar="NAME", help="name of the platform, or a folder's path")
    parser.add_argument("--device", default="local", help="local, ssh:[user@]host or adb[:serial]")
    parser.add_argument("--remote_python", default="python3", help="interpreter on a machine behind ssh")
    parser.add_argument("--binary_dir", default=PhoneRun.binary_dir, help="folder of benchmark_model on the phone")
    parser.add_argument("--bin_name", default=PhoneRun.bin_name, help="its name there")
    parser.add_argument("--taskset_mask", default=PhoneRun.taskset_mask, help="its cores, hexadecimal; '' for any")
    parser.add_argument("--use_xnnpack", action="store_true", help="on the phone; a local litert always does")
    parser.add_argument("--threads", type=int, nargs="+", default=[1],
                        help="one platform for each; the name of all but the first of threads and batch sizes gets "
                             "_t<threads>_b<batch> appended")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--cpus", type=int, nargs="+", default=[], help="cores to stay on; default: the last ones")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[], help="pixels; default: the superspace's")
    parser.add_argument("--blocks", type=int, default=Settings.blocks, help="blocks to fit to")
    parser.add_argument("--correction_nets", type=int, default=Settings.correction_nets,
                        help="networks to correct sums of blocks with")
    parser.add_argument("--test_nets", type=int, default=Settings.test_nets, help="networks to validate on")
    parser.add_argument("--minutes", type=float, default=10, help="of measuring; blocks beyond that are left out")
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory of the test networks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
    parser.add_argument("--overwrite", action="store_true", help="remove what an earlier run left")
    return parser.parse_args()


def main() -> None:
    """One platform for each number of threads and batch size."""
    args = parse_args()
    combinations = list(itertools.product(args.threads, args.batch_sizes))
    for value in itertools.chain(*combinations):
        if value < 1:
            raise UserError(f"{value} threads or images a batch; expected at least 1")
    for i, (threads, batch) in enumerate(combinations):
        make_platform(args, args.output + (f"_t{threads}_b{batch}" if i else ""), threads, batch)


def make_platform(args, name: str, threads: int, batch: int) -> None:
    """Profile one combination and say how good it is."""
    resolutions = tuple(args.resolutions) or get_superspace(args.superspace).resolutions
    settings = Settings(args.backend, args.superspace, resolutions, args.device, threads, batch, args.blocks,
                        args.correction_nets, args.test_nets, args.seed)
    check_counts(settings)
    folder = prepare_folder(name, args.resume, args.overwrite)
    phone = {name: getattr(args, name) for name in ("binary_dir", "bin_name", "taskset_mask", "use_xnnpack")}
    device = open_device(args.device, args.backend, threads, batch, args.cpus, args.remote_python, phone)
    try:
        record = Session(folder, settings, device, args.minutes, args.memory).run()
    finally:
        device.stop()
    for what, figures in record["validation"].items():
        print(f"\n{what} that were not fitted:\n" + format_table(
            [{"figure": key.replace("_", " "), "value": value} for key, value in figures.items()]))
    print(f"\n{record['configurations']} configurations in {record['seconds']:.0f} s. Use it with --platform {name}\n"
          f"Report: {folder / 'report.png'}")


def prepare_folder(name: str, resume: bool, overwrite: bool) -> Path:
    """The folder of the platform `name`; UserError if an earlier run left it and neither flag says what to do."""
    folder = user_folder() / name if Path(name).name == name else Path(name)
    begun = (folder / "plan.json").is_file()
    if begun and overwrite:
        shutil.rmtree(folder)
    elif begun and not resume:
        raise UserError(f"{str(folder)!r} holds a profile; --resume goes on with it, --overwrite begins anew")
    elif not begun and folder.exists() and any(folder.iterdir()):
        raise UserError(f"{str(folder)!r} is not empty and holds no profile; name another folder")
    return folder


if __name__ == "__main__":
    run(main)
