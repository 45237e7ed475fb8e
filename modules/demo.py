"""The pipeline at small scale, through the scripts a user would call; ends with a table and a figure.

    python -m modules.demo --output demo_output [--short]
"""
from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.cli import make_parser, run
from modules.utils.errors import UserError
from modules.utils.figures import new_figure, save_figure
from modules.utils.files import REPOSITORY
from modules.utils.results import format_table

SUPERSPACE, CHOICE = "onnxw_tiny", "053412-000000"  # one of each of its six block types
CONFIG = "supernet_training_configs/digits.yaml"
PLATFORM = "onnxruntime_int8"
CALIBRATION_BATCHES = 10  # of 64 images: half of the training set


class Demo:
    """Runs the steps, each a script of its own, in `output`."""

    def __init__(self, output: Path, short: bool):
        self.output, self.short = output, short
        self.checkpoints, self.models = output / "checkpoints", output / "onnx"
        self.space = SupernetConfig.from_choice(SUPERSPACE, CHOICE)
        self.resolutions = (32,) if short else (32, 48)
        self.space_of_subnets = SubnetSpace(self.space, self.resolutions)
        self.subnets = {"smallest": self.space_of_subnets.extreme(min), "largest": self.space_of_subnets.extreme(max)}

    def script(self, name: str, *arguments) -> None:
        """Print and run one script; UserError if it fails."""
        command = [name, *map(str, arguments)]
        print(f"\n$ python {shlex.join(command)}", flush=True)
        start = time.monotonic()
        done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        if done.returncode:
            raise UserError(f"the demo stopped: {name} ended with status {done.returncode}")
        print(f"({time.monotonic() - start:.0f} s)", flush=True)

    def run(self) -> None:
        """All steps, then the summary."""
        start = time.monotonic()
        self.output.mkdir(parents=True, exist_ok=True)
        for name in ("accuracy.csv", "latency.csv", "predicted_latency.csv"):
            (self.output / name).unlink(missing_ok=True)  # of an earlier demo; the scripts append
        shutil.rmtree(self.output / "search", ignore_errors=True)
        self._train()
        self._search()
        self._evaluate()
        self._deploy()
        self._summary()
        print(f"\nThe demo took {(time.monotonic() - start) / 60:.1f} minutes.")

    def _train(self) -> None:
        common = ["--superspace", SUPERSPACE, "--supernet_choice", CHOICE, "--config-file", CONFIG,
                  "--models_save_dir", self.checkpoints, "--overwrite", "--resolutions", *self.resolutions]
        if self.short:
            common += ["--epochs", 5, "--quant_epochs", 1]
        self.script("train_supernet.py", *common)
        self.script("train_supernet.py", *common, "--quant_mode")

    def _limits(self) -> list[float]:
        """Two latency limits for this machine: what a quarter and what three quarters of random subnets keep."""
        from modules.latency import get_platform

        rng, platform = np.random.default_rng(0), get_platform(PLATFORM)
        latencies = [platform.predict_subnet(resolve(self.space, self.space_of_subnets.sample(rng), 10))
                     for _ in range(100)]
        return [round(float(limit), 2) for limit in np.percentile(latencies, (25, 75))]

    def _search(self) -> None:
        limits = self._limits()
        size = 4 if self.short else 12
        self.script("search_subnet.py", "--superspace", SUPERSPACE, "--supernet_choice", CHOICE, "--checkpoint_path",
                    self.checkpoints, "--latency_constraint", *limits, "--latency_delta", limits[1],
                    "--population_size", size, "--mutation_size", size // 2, "--crossover_size", size // 2,
                    "--max_time_budget", 1 if self.short else 2, "--num_calib_batches", 4 if self.short else 8,
                    "--test_top_num", 1,
                    "--output_path", self.output / "search", "--overwrite")
        (self.found,) = (self.output / "search").glob("*/*ms")
        best = {row["limit"]: row["enc"] for row in _read(self.found / "best.csv") if row["rank"] == "1"}
        for encoding in dict.fromkeys(best.values()):
            limits = " and ".join(limit for limit in best if best[limit] == encoding)
            self.subnets[f"best within {limits} ms"] = SubnetChoiceConfig.from_str(encoding)

    def _evaluate(self) -> None:
        common = ["--superspace", SUPERSPACE, "--supernet_choice", CHOICE, "--resume", self.checkpoints,
                  "--output", self.output]
        encodings = list(map(str, self.subnets.values()))
        for mode in ([], ["--quant_mode"]):
            self.script("eval_supernet.py", *common, *mode, "--batch_size_per_gpu", 64,
                        "--post_bn_calibration_batch_num", CALIBRATION_BATCHES, "--subnet_choice", *encodings)
        self.script("eval_supernet.py", *common, "--mode", "lat", "--num_samples", 20 if self.short else 200,
                    "--platform", PLATFORM, "--resolutions", *self.resolutions)

    def _deploy(self) -> None:
        listing = self.output / "subnets.csv"
        listing.write_text("".join(f"{SUPERSPACE},{CHOICE},{choice}\n" for choice in self.subnets.values()))
        self.script("onnx_tools/export_onnx.py", "--input", listing, "--resume", self.checkpoints,
                    "--output_dir", self.models, "--batch_size_per_gpu", 64,
                    "--post_bn_calibration_batch_num", CALIBRATION_BATCHES)
        self.script("onnx_tools/benchmark.py", "--input", listing, "--model_dir", self.models,
                    "--output", self.output / "latency.csv")

    def _summary(self) -> None:
        accuracy = {(row["enc"], row["quant_mode"]): row for row in _read(self.output / "accuracy.csv")}
        latency = {row["name"]: row for row in _read(self.output / "latency.csv")}
        rows, points = [], {}
        for name, choice in self.subnets.items():
            macs, params = count_net_flops_and_params(resolve(self.space, choice, 10))
            fp32, times = accuracy[str(choice), "0"], latency[f"{self.space}-{choice}"]
            agreement = self._agreement(choice)
            points[name] = (float(times["int8_ms"]), agreement.top1_model)
            rows.append({
                "subnet": name, "pixels": choice.resolution, "MMACs": f"{macs:.2f}", "Mparams": f"{params:.2f}",
                "fp32 acc, %": _with_interval(float(fp32["acc1"]), int(fp32["images"])),
                "int8 acc, %": _with_interval(agreement.top1_model, agreement.images),
                "fp32 ms": f"{float(times['fp32_ms']):.2f}", "int8 ms": f"{float(times['int8_ms']):.2f}",
                "images that differ": f"{agreement.differing} of {agreement.images}"})
        folder = self.checkpoints / f"{self.space}-align0"
        figure = self.output / "accuracy_over_latency.png"
        _draw(points, figure)
        print("\nSubnets of the trained supernet, measured on this machine with onnxruntime on one thread. int8: the\n"
              "exported model; images that differ: in top-1 from the fake-quantised network; brackets: 95% interval.\n"
              "Limits are those of the search, on the sum of the blocks; accuracy is on images it never saw.\n")
        print(format_table(rows))
        print("\nFigures:")
        for path in (folder / "curves.png", folder / "lsq_curves.png", self.output / f"{SUPERSPACE}-latency_cdf.png",
                     self.found / "search.png", figure):
            print(f"  {path}")

    def _agreement(self, choice: SubnetChoiceConfig):
        from modules.deploy.agreement import Agreement
        from modules.deploy.export import model_path

        manifest = Path(f"{model_path(self.models, self.space, choice, True)}.json")
        return Agreement(**json.loads(manifest.read_text())["agreement"])


def _read(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _with_interval(percent: float, images: int) -> str:
    from modules.training.evaluation import wilson_interval

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


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--output", default="demo_output", help="folder for all files")
    parser.add_argument("--short", action="store_true", help="a form of about 3 minutes, less well trained")
    args = parser.parse_args()
    Demo(Path(args.output).resolve(), args.short).run()


if __name__ == "__main__":
    run(main)
