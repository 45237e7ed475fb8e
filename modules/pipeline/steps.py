"""The steps of the pipeline as commands of scripts, from the teacher to the checked file."""
from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from modules.block_kd.lut.tables import drawn, found_settings
from modules.block_kd.teacher.build import enlargement
from modules.modeling.public_weights.packages import PACKAGE
from modules.pipeline.plan import BLOCK_CALIBRATION, EVALUATED, POPULATION, Plan
from modules.pipeline.results import Results, list_subnets
from modules.pipeline.rival import Network
from modules.pipeline.runner import Command, Step
from modules.pipeline.speed import BATCH, CONFIG
from modules.search_space.config import SubnetChoiceConfig
from modules.search_space.superspace import get_superspace

MOST_ANSWERED = 300  # most batches from which the INT8 teacher learns the answers of a package's weights
CANDIDATES = 8  # subnets of each search that are measured: a single prediction is up to 20% off
# First steps of a supernet in which all subnets learn from the labels. A largest subnet that knows nothing yet teaches
# nothing: docs/measured/short_trainings.md.
LABEL_STEPS = 600
# Learning rates of single networks, about four times a supernet's: that of the subnets that are trained further (at 0.1
# they learn half as much in few epochs), and of those that start from random weights.
TUNING_LR, ALONE_LR = 0.3, 0.4
CHECK = "check of them"  # the step whose time tells how long the check of the files will take
WARM_STEPS = 20  # least steps in which the learning rate rises; without them few images diverge


class Pipeline:
    """The steps that lead to `results`."""

    def __init__(self, results: Results):
        self.results, self.request = results, results.request

    @property
    def plan(self) -> Plan:
        """The sizes of the steps."""
        return self.results.plan

    def steps(self, planning: Step, last_planning: Step) -> list[Step]:
        """All steps in order; `planning` comes once the space is known, `last_planning` once the network is found."""
        losses = self.results.losses
        blocks = [Step("teacher", self.train_teacher), Step("block distillation", self.distil_blocks)]
        tables = [Step("block tables", self.build_tables)]
        scores = [Step("training-free tables", self.build_zero_shot_tables)]
        rivals = [] if self.request.no_baselines else [Step("latency of rivals", self.measure_rivals)]
        return [*blocks * losses.students, *tables * (not losses.given), *scores * losses.needs_scores,
                Step("search of the space", self.search_space), planning,
                Step("supernet", self.train_supernet), Step("check of predicted latencies", self.measure_samples),
                Step("search of subnets", self.search_subnets), Step("measurement of the best", self.measure_best),
                *rivals, Step("training of the finalists", self.tune, side_by_side=True),
                Step(CHECK, self.check_tuned, side_by_side=True), last_planning,
                Step("training of the network found", self.train_last, side_by_side=True),
                Step("check of it", self.check_last), Step("files", self.export, side_by_side=True),
                Step("latency", self.benchmark)]

    # -- steps ------------------------------------------------------------------------------------------------------

    def _students(self) -> list:
        """The option for the students that are needed, if they are not all."""
        spaces = self.request.spaces
        return ["--stage_list", *(f"{stage.name}_{block}" for stage in spaces.space.searched
                                  for block in spaces.blocks)] if spaces.block_types else []

    def train_teacher(self) -> list[Command]:
        """The teacher, fp32, then INT8."""
        r = self.request
        common = ["-m modules.block_kd.teacher", "--num_workers", 0, "--output_path", self.results.teacher, "--resume",
                  "--eval_images", EVALUATED, "--manual_seed", r.seed]
        size = self.plan.resolution * enlargement(r.teacher_arch, get_superspace(r.superspace))
        start = [*common, *r.images(), "--teacher_arch", r.teacher_arch, "--resolution", size, "--train_batch_size", 32]
        if r.teacher_weights == PACKAGE:  # its answers are kept as they are
            batches = min(self.plan.teacher_epochs * self.plan.steps, MOST_ANSWERED)
            return [[*start, "--quant_mode", "--teacher_weights", PACKAGE, "--optimizer", "adam", "--learning_rate",
                     1e-5, "--train_batches", batches]]
        short = ["--train_batches", BATCH // 32 * self.plan.steps] if self.plan.shortened else []
        fp32 = [*start, "--learning_rate", 0.005, "--num_epochs", self.plan.teacher_epochs, *short]
        if r.teacher_weights:
            fp32 += ["--teacher_weights", r.start_weights]
        return [fp32, [*common, "--quant_mode", "--optimizer", "adam", "--learning_rate", 1e-4, "--bn_momentum", 0.1,
                       "--train_batch_size", 32, *short]]

    def _teacher(self, name: str) -> list:
        which = ["--superspace", self.request.superspace, "--teacher_arch", self.request.teacher_arch]
        if name == "checkpoint.pth" and self.request.teacher_weights == PACKAGE:
            return [*which, "--teacher_weights", PACKAGE]
        return [*which, "--teacher_checkpoint_path", self.results.teacher / name]

    def distil_blocks(self) -> list[Command]:
        """All blocks, fp32, then INT8."""
        r = self.request
        common = [*r.images(), "--valid_size", min(self.plan.valid_size, EVALUATED), "--hw_list", self.plan.resolution,
                  "--num_workers", 0, "--train_batch_size", BATCH, "--lr_step_size", 1, "--num_calib_batches",
                  BLOCK_CALIBRATION, "--resume", "--inplace_distill_from_teacher", "--manual_seed", r.seed,
                  *self._students(), "--output_path", self.results.blocks / r.superspace]
        return [[script, *self._teacher(teacher), *common, "--num_epochs", max(round(batches / self.plan.steps), 1),
                 "--train_batches", min(batches, self.plan.steps)]
                for script, teacher, batches in (("train_block_kd.py", "checkpoint.pth", self.plan.block_batches),
                                                 ("lsq_block_kd.py", "lsq.pth", self.plan.block_int8_batches))]

    def build_tables(self) -> list[Command]:
        """Loss and latency of blocks; without students the loss is a training-free score."""
        r = self.results
        losses = self._proxy() if r.losses.alone else [
            *self._teacher("lsq.pth"), "--checkpoint_path", r.blocks, "--num_calib_batches", BLOCK_CALIBRATION]
        return [["eval_block_kd.py", *losses, "--platform", self.request.device, "--output_path", r.tables,
                 "--num_samples_per_stage", self.plan.table_rows, "--num_workers", 0, "--hw_list",
                 self.plan.resolution, "--manual_seed", self.request.seed, "--resume", *self._students()]]

    def _proxy(self) -> list:
        return ["--superspace", self.request.superspace, "--proxy", self.results.losses.score, "--train_batch_size", 16]

    def build_zero_shot_tables(self) -> list[Command]:
        """Training-free scores of the rows of the block tables. Their latency does not count: it is predicted."""
        seed, rows, resolutions = drawn(self.results.tables, self.request.superspace,
                                        self.request.spaces.seeds())
        return [["eval_block_kd.py", *self._proxy(), "--platform", "onnx_lut", "--output_path",
                 self.results.zero_shot_tables, "--num_samples_per_stage", rows, "--manual_seed", seed, "--hw_list",
                 *resolutions, "--num_workers", 0, "--resume", *self._students()]]

    def search_space(self) -> list[Command]:
        """The best space within the limit."""
        types, losses = self.request.block_types, self.results.losses
        scores = ["--stage_losses", "relative"] if losses.alone else [
            "--zero_shot_lut_path", self.results.zero_shot_tables] if losses.score else []
        made_on = found_settings(self.results.tables / self.request.superspace).get("platform")
        return [["search_block_kd.py", "--superspace", self.request.superspace, "--lut_path", self.results.tables,
                 *([] if made_on else ["--platform", self.request.device]),
                 *(["--block_types", *types] if types else []), *scores,
                 "--latency_constraint", self.results.table_limit,
                 "--latency_loss_t", 0.08, "--cycles", 3000, "--seed", self.request.seed, "--output_dir",
                 self.results.spaces, "--resume"]]

    def _space(self) -> list:
        space = self.results.space
        return ["--superspace", space.superspace, "--supernet_choice", space.choice]

    def _training(self, folder: Path, epochs: int, int8_epochs: int, amp: str, which: Sequence) -> list[Command]:
        common = ["train_supernet.py", *which, *self.request.images(), "--config-file", CONFIG, "--models_save_dir",
                  folder, "--valid_size", self.plan.valid_size, "--resolutions", *self.plan.resolutions, "--placement",
                  "engine", "--quant_weight_bits", self.request.weight_bits, "--post_bn_calibration_batch_num",
                  self.plan.calibration_batches, "--seed", self.request.seed, "--epochs", epochs, "--quant_epochs",
                  int8_epochs, "--amp", amp, "--warmup_epochs",
                  min(max(0.5, round(WARM_STEPS / self.plan.steps, 2)), epochs / 2), "--resume",
                  *(("--augment", "shift", "--eval_crop", 1) if self.results.shifted else ()),
                  *(("--debug_batches", self.plan.steps) if self.plan.shortened else ())]
        return [common, [*common, "--quant_mode"]]

    def train_supernet(self) -> list[Command]:
        """The supernet of that space, fp32, then INT8 with the engine's placement of quantisers; none where a score is
        to choose the subnets."""
        p = self.plan
        if p.score:
            print(f"No supernet: subnets are chosen by their score {p.score}, and trained alone.", flush=True)
            return []
        return self._training(self.results.supernet, p.supernet_epochs, p.supernet_int8_epochs, p.amp, [
            *self._space(), "--label_epochs", min(p.supernet_epochs, math.ceil(LABEL_STEPS / p.steps))])

    def measure_samples(self) -> list[Command]:
        """Latency of random subnets near the limit: how far are predictions off?"""
        samples = self.results.drawn_samples()
        return self._measure(samples, self.results.samples, self.results.samples_latency) if samples else []

    def search_subnets(self) -> list[Command]:
        """The supernet's best subnets within the limit, or the best by a score; with baselines also by random search
        with as many evaluations."""
        r, p = self.results, self.plan
        fitness = ["--fitness", p.score, "--resolutions", *p.resolutions, "--num_classes", r.classes] if p.score else [
            "--checkpoint_path", r.supernet, "--num_calib_batches", p.calibration_batches]
        children = POPULATION // 2
        common = ["search_subnet.py", *self._space(), *fitness, "--latency_constraint", r.search_limit,
                  "--latency_delta", r.search_limit, "--platform", self.request.device, "--population_size", POPULATION,
                  "--mutation_size", children, "--crossover_size", POPULATION - children, "--max_evaluations",
                  p.evaluations, "--max_time_budget", math.ceil(p.evaluations / POPULATION), "--test_top_num",
                  CANDIDATES, "--manual_seed", self.request.seed, "--resume"]
        return [[*common, "--method", method, "--output_path", r.subnets / method] for method in r.methods]

    def measure_best(self) -> list[Command]:
        """Latency of the best subnets of each search, and of the smallest, where it counts."""
        if not self.results.measured_here:
            print(f"Predictions for {self.request.platform} decide: networks are not measured for it.", flush=True)
            return []
        return self._measure(self.results.best_predicted(), self.results.candidates, self.results.candidates_latency)

    def _export(self, listing: Path, checkpoints: Path, models: Path) -> Command:
        return ["onnx_tools/export_onnx.py", "--input", listing, "--resume", checkpoints, "--output_dir", models,
                "--batch_size_per_gpu", BATCH, "--post_bn_calibration_batch_num", self.plan.calibration_batches]

    def tune(self) -> list[list[Command]]:
        """Training alone of the best subnets whose measured latency is within the limit, of the smallest, and of the
        one that random search found."""
        r, p = self.results, self.plan
        start = None if p.score else r.supernet
        return [self._train_alone(subnet, start, r.tuned_folder(subnet), p.tuning_epochs, p.tuning_int8_epochs, p.amp)
                for subnet in r.trained()]

    def _train_alone(self, subnet: SubnetChoiceConfig, start: Path | None, folder: Path, epochs: int, int8_epochs: int,
                     amp: str) -> list[Command]:
        """Training of a subnet alone from its fp32 weights in `start`, or from random ones."""
        fp32, int8 = self._training(folder, epochs, int8_epochs, amp, [
            *self._space(), "--subnet_choice", subnet, "--base_lr", TUNING_LR if start else ALONE_LR])
        weights = ["--init_checkpoint", start / f"{self.results.space}-align0" / "checkpoint.pth"] if start else []
        return [[*fp32, *weights], int8]

    def check_tuned(self) -> list[list[Command]]:
        """Accuracy of these subnets on the held-out images, in the supernet and with the training alone."""
        return [[self._check(checkpoints, subnets)] for checkpoints, subnets in self.results.checked()]

    def _check(self, checkpoints: Path, subnets: Sequence[SubnetChoiceConfig]) -> Command:
        folder = self.results.check_folder(checkpoints)
        shutil.rmtree(folder, ignore_errors=True)  # rows are appended, and a killed step is repeated
        return ["eval_supernet.py", *self._space(), "--quant_mode", "--valid_size", self.plan.valid_size, "--resume",
                checkpoints, "--output", folder, "--batch_size_per_gpu", BATCH, "--post_bn_calibration_batch_num",
                self.plan.calibration_batches, "--subnet_choice", *subnets]

    def train_last(self) -> list[list[Command]]:
        """The last training of the network found, and the training of its rival."""
        r, p, found = self.results, self.plan, self.results.found
        rivals = [] if self.request.no_baselines else [self._train_rival()]
        return [*rivals, self._train_alone(found, r.best_checkpoints(found), r.last, p.last_epochs,
                                           p.last_int8_epochs, p.last_amp)]

    def check_last(self) -> list[Command]:
        """Accuracy of the network found on the held-out images, after its last training."""
        return [self._check(self.results.last, [self.results.found])]

    def measure_rivals(self) -> list[Command]:
        """Latency of the networks that a user would take instead, where it counts."""
        if not self.results.measured_here:
            return []
        return self._measure(self.results.rival_candidates(), self.results.rivals, self.results.rivals_latency)

    def _measure(self, networks: Sequence[Network], models: Path, table: Path) -> list[Command]:
        """Latency of INT8 files with random weights: it depends on their bits alone."""
        listing = models / "networks.csv"
        list_subnets(listing, networks)
        return [["onnx_tools/export_onnx.py", "--input", listing, "--skip_weights", "--weight_bits",
                 self.request.weight_bits, "--num_classes", self.results.classes, "--output_dir", models],
                _benchmark(listing, models, table)]

    def _train_rival(self) -> list[Command]:
        """The rival, from random weights."""
        (space, subnet), p = self.results.rival_network(), self.plan
        which = ["--superspace", space.superspace, "--supernet_choice", space.choice, "--subnet_choice", subnet,
                 "--base_lr", ALONE_LR]
        return self._training(self.results.rival, p.rival_epochs, p.rival_int8_epochs, p.rival_amp, which)

    def export(self) -> list[list[Command]]:
        """Files with cards of the compared networks."""
        commands = []
        for name, (checkpoints, network) in self.results.exports().items():
            list_subnets(self.results.listing(name), [network])
            commands.append([self._export(self.results.listing(name), checkpoints, self.results.models)])
        return commands

    def benchmark(self) -> list[Command]:
        """Latency of the exported files, in turns."""
        r = self.results
        list_subnets(r.listing("all"), [network for _, network in r.exports().values()])
        return [_benchmark(r.listing("all"), r.models, r.latency)]


def _benchmark(listing: Path, models: Path, table: Path) -> Command:
    table.unlink(missing_ok=True)  # rows are appended, and a killed step is repeated
    return ["onnx_tools/benchmark.py", "--input", listing, "--model_dir", models, "--output", table, "--together",
            "--usual_speed"]
