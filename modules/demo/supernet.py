"""Second half of the demo: the supernet of the space found, its best subnets, and their models on this machine."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from modules.demo.plan import CALIBRATION_BATCHES, CONFIG, PLATFORM, VALID_SIZE, Plan
from modules.demo.runner import read_rows, run_script
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace


class SupernetDemo:
    """Trains, searches and deploys the supernet of `space`; everything goes to `output`."""

    def __init__(self, plan: Plan, space: SupernetConfig, output: Path):
        self.plan, self.space, self.output = plan, space, output
        self.checkpoints, self.models = output / "checkpoints", output / "onnx"
        self.subnet_space = SubnetSpace(space, plan.resolutions)
        self.subnets = {"smallest": self.subnet_space.extreme(min), "largest": self.subnet_space.extreme(max)}
        self.which = ["--superspace", space.superspace, "--supernet_choice", space.choice]

    def run(self) -> None:
        """All steps."""
        for name in ("accuracy.csv", "latency.csv", "predicted_latency.csv"):
            (self.output / name).unlink(missing_ok=True)  # of an earlier demo; the scripts append
        shutil.rmtree(self.output / "search", ignore_errors=True)
        self._train()
        self._search()
        self._evaluate()
        self._deploy()

    def _train(self) -> None:
        common = [*self.which, "--config-file", CONFIG, "--models_save_dir", self.checkpoints, "--overwrite",
                  "--valid_size", VALID_SIZE, "--resolutions", *self.plan.resolutions, *self.plan.supernet_options]
        run_script("train_supernet.py", *common)
        run_script("train_supernet.py", *common, "--quant_mode")

    def _limits(self) -> list[float]:
        """Two latency limits for this machine: what a quarter and what three quarters of random subnets keep."""
        from modules.latency import get_platform

        rng, platform = np.random.default_rng(0), get_platform(PLATFORM)
        latencies = [platform.predict_subnet(resolve(self.space, self.subnet_space.sample(rng), 10))
                     for _ in range(100)]
        return [round(float(limit), 2) for limit in np.percentile(latencies, (25, 75))]

    def _search(self) -> None:
        limits, size = self._limits(), self.plan.population
        run_script("search_subnet.py", *self.which, "--checkpoint_path", self.checkpoints, "--latency_constraint",
                   *limits, "--latency_delta", limits[1], "--population_size", size, "--mutation_size", size // 2,
                   "--crossover_size", size // 2, "--max_time_budget", self.plan.rounds, "--num_calib_batches",
                   self.plan.search_calibration, "--test_top_num", 1, "--output_path", self.output / "search",
                   "--overwrite")
        (self.found,) = (self.output / "search").glob("*/*ms")
        best = {row["limit"]: row["enc"] for row in read_rows(self.found / "best.csv") if row["rank"] == "1"}
        for encoding in dict.fromkeys(best.values()):
            limits = " and ".join(limit for limit in best if best[limit] == encoding)
            self.subnets[f"best within {limits} ms"] = SubnetChoiceConfig.from_str(encoding)

    def _evaluate(self) -> None:
        common = [*self.which, "--resume", self.checkpoints, "--output", self.output]
        encodings = list(map(str, self.subnets.values()))
        for mode in ([], ["--quant_mode"]):
            run_script("eval_supernet.py", *common, *mode, "--batch_size_per_gpu", 64,
                       "--post_bn_calibration_batch_num", CALIBRATION_BATCHES, "--subnet_choice", *encodings)
        run_script("eval_supernet.py", *common, "--mode", "lat", "--num_samples", self.plan.sampled_latencies,
                   "--platform", PLATFORM, "--resolutions", *self.plan.resolutions)

    def _deploy(self) -> None:
        listing = self.output / "subnets.csv"
        listing.write_text("".join(f"{self.space.superspace},{self.space.choice},{choice}\n"
                                   for choice in self.subnets.values()))
        run_script("onnx_tools/export_onnx.py", "--input", listing, "--resume", self.checkpoints, "--output_dir",
                   self.models, "--batch_size_per_gpu", 64, "--post_bn_calibration_batch_num", CALIBRATION_BATCHES)
        run_script("onnx_tools/benchmark.py", "--input", listing, "--model_dir", self.models, "--output",
                   self.output / "latency.csv")
