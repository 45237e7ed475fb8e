"""The pipeline: sizes from a budget, choices from tables, steps that are run once, and the whole killed and resumed."""
import csv
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_trees import digit_folder
from processes import run_script

from modules.block_kd.lut.speed import limit_of_sums, sum_over_network
from modules.block_kd.space_search.spaces import Spaces
from modules.latency import get_platform
from modules.latency.platform import this_machine
from modules.modeling.complexity import blocks_of, count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.pipeline import speed
from modules.pipeline.limit import choose_limit
from modules.pipeline.losses import Losses, choose_losses
from modules.pipeline.pipeline import STATE_FILE, plan_state, run_pipeline
from modules.pipeline.plan import (
    LEAST_PASSES,
    LEAST_TAUGHT,
    MARGIN,
    POPULATION,
    SHARES,
    count_scripts,
    file_seconds,
    held_out,
    make_plan,
    plan_last,
)
from modules.pipeline.request import Request, parse_duration
from modules.pipeline.results import FILES, Results
from modules.pipeline.rival import MEASURED, WIDTHS, choose_rival, rival_candidates
from modules.pipeline.runner import Step, run_steps
from modules.pipeline.speed import Speed, measure_speed, mixture, step_seconds
from modules.pipeline.steps import Pipeline
from modules.pipeline.summary import Entry, gains, same
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.networks import find_network
from modules.search_space.subnet_space import SubnetSpace
from modules.training.precision import computes_bf16
from modules.training.recipe.muon import Muon
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.results import append_row
from modules.utils.runs import Run

SPACES = Spaces("onnxw_tiny")
SPEED = Speed(sandwich=0.4, single=0.4, teacher=0.2)
STUDENTS, GIVEN, SCORE = Losses(students=True), Losses(given=True), Losses(score="Zen")


def request(output) -> Request:
    return Request(dataset="digits", superspace="onnxw_tiny", output=str(output))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("5", 300),
                                               ("1.5h", 5400)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0m", "-3m", "soon", "3 weeks", "nan", "1e9m", "9" * 400])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UserError, match="--budget"):
        parse_duration(text)


# -- the plan -------------------------------------------------------------------------------------------------------

def test_a_plan_keeps_the_budget_it_was_made_for():
    """The cost of all sizes by the measured step times is at most the budget, and most of it."""
    assert sum(SHARES.values()) < 1
    images, budget = 4000, 3600
    plan = make_plan(budget, images, SPACES, (48,), SPEED, STUDENTS)
    steps = (images - plan.valid_size) // 64
    supernet = 0.4 * steps * (plan.supernet_epochs + 1.4 * plan.supernet_int8_epochs)
    tuning = 4 * 0.1 * steps * (plan.tuning_epochs + 1.4 * plan.tuning_int8_epochs)
    students = (6 * 0.4 + 0.2 / 3) * (plan.block_batches + 1.4 * plan.block_int8_batches)
    assert 0.3 * budget < supernet + tuning + students < budget * (1 - SHARES["teacher"] - SHARES["tables"])


def test_more_time_or_a_faster_machine_makes_every_size_larger():
    def sizes(budget, speed):
        plan = make_plan(budget, 4000, SPACES, (32, 48), speed, STUDENTS)
        return np.array([plan.teacher_epochs, plan.block_batches, plan.table_rows, plan.supernet_epochs,
                         plan.evaluations, plan.tuning_epochs])

    assert (sizes(7200, SPEED) >= sizes(1800, SPEED)).all()
    assert (sizes(1800, Speed(0.1, 0.1, 0.05)) > sizes(1800, SPEED)).all()


def test_small_images_and_given_tables_leave_time_for_the_supernet():
    """A step at 24 pixels takes a quarter of one at 48; without the four steps that make tables there is 1 / 0.75 of
    the time for the others, with tables of a score alone 1 / 0.81."""
    one, both, given = (make_plan(10000, 4000, SPACES, pixels, SPEED, losses) for pixels, losses in (
        ((48,), STUDENTS), ((24, 48), STUDENTS), ((48,), GIVEN)))
    assert both.supernet_epochs / one.supernet_epochs == pytest.approx(8 / 5, rel=0.02)
    assert (given.teacher_epochs, given.block_batches, given.table_rows) == (0, 0, 0)
    assert ("tables of" in str(one), "tables of" in str(given)) == (True, False)
    assert given.supernet_epochs / one.supernet_epochs == pytest.approx(4 / 3, rel=0.02)
    scored = make_plan(10000, 4000, SPACES, (48,), SPEED, SCORE)
    assert (scored.teacher_epochs, scored.block_batches, scored.block_int8_batches) == (0, 0, 0)
    assert scored.supernet_epochs / one.supernet_epochs == pytest.approx(1 / 0.81, rel=0.02)
    short, taught = (make_plan(1800, 4000, SPACES, (48,), SPEED, losses) for losses in (SCORE, STUDENTS))
    assert short.table_rows > 1.2 * taught.table_rows
    assert "no teacher, no students; tables of " in str(scored)


def test_time_in_which_scripts_start_trains_nothing():
    plans = [make_plan(3600, 4000, SPACES, (32,), Speed(0.4, 0.4, 0.2, start=seconds), STUDENTS)
             for seconds in (0, 20, 1000)]
    assert plans[1] == make_plan(3600 - 39 * 20, 4000, SPACES, (32,), SPEED, STUDENTS)
    assert plans[2] == make_plan(1200, 4000, SPACES, (32,), SPEED, STUDENTS)  # never less than a third
    assert plans[0].supernet_epochs > plans[1].supernet_epochs


def test_threads_are_those_asked_for_or_the_faster_number(monkeypatch):
    """The number of threads is in the plan, and the scripts get it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    assert measure_speed(mixture(SPACES), 32, 10).threads == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for seconds, faster in (({1: 0.5, 4: 0.3}, 4), ({1: 0.5, 4: 0.6}, 1)):
        monkeypatch.setattr(speed, "_sandwich_seconds", lambda *_, seconds=seconds: seconds[torch.get_num_threads()])
        measured = measure_speed(mixture(SPACES), 32, 10)
        assert (measured.threads, measured.sandwich, measured.single) == (faster, seconds[faster], 0.5)
    assert torch.get_num_threads() == before


def test_trainings_have_the_faster_number_format_and_more_epochs_by_it(monkeypatch, tmp_path):
    """Where the device has kernels for bf16 it is measured, and students, which have none, keep their time in fp32."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(speed, "_sandwich_seconds", lambda *given: {"none": 0.4, "bf16": 0.2}[given[-1]])
    monkeypatch.setattr(speed, "_start_seconds", lambda: 0.0)
    plans = {}
    for has in (False, True):
        monkeypatch.setattr(speed, "computes_bf16", lambda device, has=has: has)
        measured = measure_speed(mixture(SPACES), 32, 10)
        assert (measured.sandwich, measured.amp, measured.gain) == (0.4, *(("bf16", 2.0) if has else ("none", 1.0)))
        plans[has] = make_plan(10000, 4000, SPACES, (32,), measured, STUDENTS)
    assert plans[True].supernet_epochs == pytest.approx(2 * plans[False].supernet_epochs, abs=1)
    assert plans[True].tuning_epochs == pytest.approx(2 * plans[False].tuning_epochs, abs=1)
    assert plans[True].block_batches == plans[False].block_batches
    assert "thread(s), bf16;" in str(plans[True])
    last = plan_last(plans[True], 3000, (0.2, "bf16"), (0.5, "none"))
    results, _ = make_results(tmp_path, [60.0], [0.4])
    results.plan = last
    append_row(results.rivals_latency, {"name": "mobilenet_v2:0.25", "int8_ms": 0.4})
    steps = Pipeline(results)
    supernet, rival = steps.train_supernet(), steps._train_rival()
    found = steps._train_alone(results.smallest, None, tmp_path, 3, 1, last.last_amp)
    for commands, amp in ((supernet, "bf16"), (found, "bf16"), (rival, "none")):
        assert [command[command.index("--amp") + 1] for command in commands] == [amp, amp]


def test_scripts_run_on_the_threads_of_the_plan(tmp_path):
    script, seen = tmp_path / "a.py", tmp_path / "seen"
    script.write_text(f"import os; open({str(seen)!r}, 'w').write(os.environ['OMP_NUM_THREADS'])")
    with Run(tmp_path / "state.json", resume=False, overwrite=False, option="--output") as opened:
        run_steps(opened, {}, {}, [Step("a", lambda: [[script]])], threads=7)
    assert seen.read_text() == "7"


def test_a_budget_holds_for_more_images_than_it_can_show(tmp_path):
    """Ten minutes, a million images: epochs of some batches; all commands of a training have that length."""
    few, many = (make_plan(600, images, SPACES, (48,), SPEED, STUDENTS) for images in (1000, 1_000_000))
    assert (few.shortened, few.steps, many.shortened) == (False, few.whole_epoch, True)
    cost = many.steps * (0.4 * (many.supernet_epochs + 1.4 * many.supernet_int8_epochs)
                         + 4 * 0.1 * (many.tuning_epochs + 1.4 * many.tuning_int8_epochs) + 0.2 * many.teacher_epochs)
    assert 200 < cost < 300
    assert many.passes(many.supernet_epochs) == many.supernet_epochs * many.steps / (995_000 // 64)
    assert few.passes(3) == 3
    pipeline = Pipeline(Results(request(tmp_path), many, 0.5, 10))
    for command in pipeline._training(tmp_path, 5, 1, "none", []):
        assert command[command.index("--debug_batches") + 1] == many.steps
    for command in pipeline.train_teacher():
        assert command[command.index("--train_batches") + 1] == 2 * many.steps


def test_the_smallest_plan_has_something_of_everything():
    plan = make_plan(1, 50, SPACES, (32,), SPEED, STUDENTS)
    assert min(plan.teacher_epochs, plan.supernet_epochs, plan.supernet_int8_epochs, plan.tuning_epochs) == 1
    assert plan.evaluations == 2 * POPULATION


@pytest.mark.parametrize(("fitness", "budget", "score"), [
    ("accuracy", 60, ""), ("auto", 60, "Zen"), ("auto", 36000, ""), ("NASWOT", 36000, "NASWOT")])
def test_a_budget_that_is_short_for_a_supernet_goes_to_the_networks(fitness, budget, score):
    """By itself below some passes of the images; its time is left for the trainings alone."""
    plan, other = (make_plan(budget, 4000, SPACES, (32,), SPEED, GIVEN, fitness=name) for name in (fitness, "accuracy"))
    assert plan.score == score
    assert (plan.supernet_epochs == 0) == (plan.supernet_int8_epochs == 0) == bool(score)
    if fitness == "auto":
        assert bool(score) == (plan.passes(other.supernet_epochs) < LEAST_PASSES)
    assert ("no supernet; " in str(plan)) == bool(score)
    if score:
        assert plan.tuning_epochs >= other.tuning_epochs
        assert plan.evaluations >= other.evaluations  # a score costs less than an accuracy


def test_without_a_supernet_networks_start_from_random_weights(tmp_path):
    results, encodings = make_results(tmp_path, (90, 80), (0.4, 0.45))
    append_row(results.candidates_latency, {"name": f"{results.space}-{results.smallest}", "int8_ms": 0.2})
    append_row(results.rivals_latency, {"name": "mobilenet_v2:0.25", "int8_ms": 0.4})
    results.plan = make_plan(600, 1000, SPACES, (32,), SPEED, GIVEN, fitness="Zen")
    pipeline = Pipeline(results)
    assert pipeline.train_supernet() == []
    for command, method in zip(pipeline.search_subnets(), ("evolution", "random"), strict=True):
        words = " ".join(map(str, command))
        assert "--fitness Zen --resolutions 32 --num_classes 10 " in words
        assert "--latency_constraint 0.475 --latency_delta 0.475 " in words  # of 0.5
        assert f"--method {method}" in words
        assert "--checkpoint_path" not in words
    for fp32, _ in pipeline.tune():
        assert "--init_checkpoint" not in fp32
    checks = pipeline.check_tuned()
    assert len(checks) == len(results.trained()) == 3
    for subnet, accuracy in zip(results.trained(), (70, 85, 60), strict=True):
        append_row(results.check_folder(results.tuned_folder(subnet)) / "accuracy.csv",
                   {"enc": str(subnet), "acc1": accuracy})
    assert str(results.found) == encodings[1]
    _, (fp32, _) = pipeline.train_last()
    assert fp32[fp32.index("--init_checkpoint") + 1].parent.parent == results.tuned_folder(results.found)


def test_the_search_has_the_whole_limit_where_little_is_within(tmp_path):
    results, _ = make_results(tmp_path, (90,), (0.4,))
    smallest = get_platform(results.request.platform).predict_subnet(resolve(results.space, results.smallest, 10))
    near, far = (Results(results.request, results.plan, factor * smallest, 10) for factor in (1.1, 1.2))
    assert near.search_limit == near.limit
    assert far.search_limit == pytest.approx(0.95 * far.limit, rel=1e-3)


def test_the_search_allows_for_predictions_that_are_off(tmp_path):
    """Measured twice as long as predicted, in the median: half of the limit is left for predictions."""
    results, _ = make_results(tmp_path, (90,), (0.4,))
    samples = [subnet for _, subnet in results.drawn_samples()]
    assert len(set(samples)) == 6
    predicted = [get_platform(results.request.platform).predict_subnet(resolve(results.space, subnet, 10))
                 for subnet in samples]
    random = results._predicted([SubnetSpace(results.space, (32,)).sample(np.random.default_rng(7)) for _ in range(99)])
    assert np.abs(np.array(predicted) - 0.475).mean() < np.abs(random - 0.475).mean()
    for subnet, ms, factor in zip(samples, predicted, (1.9, 2, 2, 2, 2.1, 9), strict=True):
        append_row(results.samples_latency, {"name": f"{results.space}-{subnet}", "int8_ms": factor * ms})
    assert results.measured_over_predicted == pytest.approx(2)
    results.limit = 8 * float(results._predicted([results.smallest])[0])
    assert results.search_limit == pytest.approx(0.95 * results.limit / 2, rel=1e-3)
    foreign = Results(dataclasses.replace(results.request, platform="onnx_lut"), results.plan, 0.5, 10)
    assert foreign.drawn_samples() == Pipeline(foreign).measure_samples() == []


def plan_for_the_end(threads: int = 1):
    return dataclasses.replace(make_plan(3600, 4000, SPACES, (32,), Speed(0.4, 0.4, 0.2, threads=threads), STUDENTS),
                               supernet_epochs=6, supernet_int8_epochs=1, tuning_epochs=3, tuning_int8_epochs=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_last_trainings_fill_the_time_that_is_left(threads):
    """One after the other on one thread, side by side on two; an INT8 epoch costs 1.4 of one in fp32."""
    plan = plan_last(plan_for_the_end(threads), 3000, found=(0.2, "none"), rival=(0.5, "none"))
    seconds = [step * plan.steps * (epochs + 1.4 * int8) for step, epochs, int8 in (
        (0.2, plan.last_epochs, plan.last_int8_epochs), (0.5, plan.rival_epochs, plan.rival_int8_epochs))]
    used = max(seconds) if threads > 1 else sum(seconds)
    assert MARGIN * 3000 - (0.2 + 0.5) * plan.steps < used <= MARGIN * 3000
    assert 8 < plan.last_epochs / plan.last_int8_epochs < 14


def test_a_fast_rival_has_the_epochs_of_the_network_found_and_its_supernet():
    plan = plan_last(plan_for_the_end(threads=2), 3000, found=(0.2, "none"), rival=(0.01, "none"))
    assert plan.rival_epochs == 6 + 3 + plan.last_epochs
    assert plan.rival_int8_epochs == 1 + 1 + plan.last_int8_epochs


def test_without_a_rival_the_network_found_has_all_the_time():
    alone, both = (plan_last(plan_for_the_end(), 3000, (0.2, "none"), rival) for rival in (None, (0.2, "none")))
    assert (alone.rival_epochs, alone.rival_int8_epochs) == (0, 0)
    assert alone.last_epochs > 1.9 * both.last_epochs
    late = plan_last(plan_for_the_end(), -50, (0.2, "none"), (0.2, "none"))
    assert (late.last_epochs, late.last_int8_epochs, late.rival_epochs, late.rival_int8_epochs) == (1, 1, 1, 1)


@pytest.mark.parametrize(("threads", "tests", "seconds"), [
    (2, 600, 15 * (2 * 2 + 2)), (1, 600, 7.5 * (3 * 2 + 2)), (2, 1200, 15 * (2 * 2 * 2 + 2)), (4, 6, 30 * (2 + 2))])
def test_files_are_checked_side_by_side_on_all_test_images(threads, tests, seconds):
    plan = dataclasses.replace(plan_for_the_end(threads), valid_size=600)
    assert file_seconds(plan, tests, files=3, checking=30, checked=4) == pytest.approx(seconds)


def test_a_step_of_a_larger_network_takes_longer():
    small, large = ((SupernetConfig.from_choice("cifarw_short", "666-222"), SubnetSpace(
        SupernetConfig.from_choice("cifarw_short", "666-222"), (32,)).extreme(end)) for end in (min, max))
    before = torch.get_num_threads()
    times = [step_seconds(network, 10, 1) for network in (large, small)]
    assert times[0][0] > 1.5 * times[1][0] > 0
    assert {amp for _, amp in times} <= ({"none", "bf16"} if computes_bf16(torch.device("cpu")) else {"none"})
    assert torch.get_num_threads() == before


def test_a_measured_step_has_that_of_the_optimiser(monkeypatch):
    """Muon's is a quarter of a fast step: without it a budget of 20 minutes took 26."""
    stepped = []
    monkeypatch.setattr(Muon, "step", lambda self, closure=None: stepped.append({g["lr"] for g in self.param_groups}))
    space = SupernetConfig.from_choice("cifarw_short", "666-222")
    step_seconds((space, SubnetSpace(space, (32,)).extreme(min)), 10, 1)
    alone = len(stepped)
    assert alone >= 4
    measure_speed(space, 32, 10, threads=1)
    assert len(stepped) >= alone + 4


def test_held_out_images_are_a_share_with_a_bound():
    assert [held_out(n) for n in (10, 1000, 1_000_000)] == [2, 150, 5000]


def test_a_limit_out_of_reach_is_refused_with_the_reachable_one():
    with pytest.raises(UserError, match=r"0\.0001 ms: the smallest networks of onnxw take .* ms on onnx_lut"):
        choose_limit(0.0001, Spaces("onnxw"), (160,), "onnx_lut", 1000)


def test_the_smallest_networks_are_those_of_the_fastest_type_in_each_stage():
    """In onnxw_tiny no single type is fastest in all stages: 133333 is faster than any of the uniform spaces."""
    def smallest(choice: str) -> float:
        space = SupernetConfig.from_choice("onnxw_tiny", choice)
        return get_platform("onnx_lut").predict_subnet(resolve(space, SubnetSpace(space, (48,)).extreme(min), 10))

    mixed, uniform = smallest("133333-000000"), min(smallest(f"{digit * 6}-000000") for digit in "012345")
    assert mixed < uniform
    between = (mixed + uniform) / 2
    assert choose_limit(between, Spaces("onnxw_tiny"), (48,), "onnx_lut", 10) == between
    with pytest.raises(UserError, match="the smallest networks of onnxw_tiny take"):
        choose_limit(0.99 * mixed, Spaces("onnxw_tiny"), (48,), "onnx_lut", 10)


def test_a_limit_for_tables_has_room_for_their_larger_classifier():
    """The stages that tables leave out have 1000 classes, networks here 10."""
    platform = get_platform("epyc_onnxruntime_int8")
    ten, thousand = (SPACES.random_nets(48, classes) for classes in (10, 1000))
    longer = np.median([platform.predict_block(*blocks_of(b)[-1]) - platform.predict_block(*blocks_of(a)[-1])
                        for a, b in zip(ten, thousand, strict=True)])
    assert longer > 0.03
    ratio = sum_over_network(ten, platform)
    assert limit_of_sums(2.0, ten, platform) == pytest.approx(2 * ratio + longer, rel=5e-3)
    assert limit_of_sums(2.0, thousand, platform) == pytest.approx(2 * sum_over_network(thousand, platform), rel=5e-3)


def test_the_limit_is_one_of_the_tables_resolution():
    """Block tables are made at the largest resolution: a limit that only smaller images keep finds nothing there."""
    assert choose_limit(0, Spaces("onnxw"), (160, 224), "onnx_lut", 1000) == choose_limit(
        0, Spaces("onnxw"), (224,), "onnx_lut", 1000)
    with pytest.raises(UserError, match="at 224 pixels"):
        choose_limit(1.0, Spaces("onnxw"), (64, 224), "onnx_lut", 1000)


def test_without_a_limit_half_of_the_networks_keep_it():
    """Of random networks, of other draws than those that the limit was chosen with."""
    spaces = Spaces("onnxw")
    limit, rng = choose_limit(0, spaces, (160,), "onnx_lut", 1000), np.random.default_rng(12345)
    configs = [spaces.random(rng) for _ in range(100)]
    nets = [resolve(config, SubnetSpace(config, (160,)).sample(rng), 1000) for config in configs]
    assert 0.3 < np.mean(get_platform("onnx_lut").predict_subnets(nets).ms <= limit) < 0.7


def test_the_rival_is_the_largest_that_is_measured_within_the_limit():
    """Of both forms of MobileNetV2: the more time, the more MACs; the fastest where the limit is out of reach."""
    candidates = rival_candidates(5, "onnx_lut", (160, 224), 1000)
    assert 1 < len(candidates) <= MEASURED
    fastest = min((find_network(f"mobilenet_v2:{width}", 160) for width in WIDTHS),  # the others are slower
                  key=lambda net: get_platform("onnx_lut").predict_subnet(resolve(*net, 1000)))
    assert fastest in candidates
    macs = [count_net_flops_and_params(resolve(*network, 1000))[0] for network in candidates]
    order = sorted(range(len(macs)), key=lambda i: macs[i])
    measured = {i: 1.0 + rank for rank, i in enumerate(order)}  # the more MACs, the slower
    latencies = {candidates[i]: ms for i, ms in measured.items()}
    for limit, rank in ((100, -1), (2.5, 1), (0.5, 0)):
        assert choose_rival(latencies, limit, 1000) == candidates[order[rank]]


# -- choices --------------------------------------------------------------------------------------------------------

def table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def make_results(folder, accuracies, ms) -> Results:
    """Results with a space, a search's best subnets of these accuracies, and their measured latencies."""
    space = SupernetConfig.from_choice("onnxw_tiny", "512202-012000")
    plan = make_plan(600, 1000, SPACES, (32,), SPEED, STUDENTS)
    results = Results(request(folder), plan, 0.5, 10)
    table(results.spaces / "onnxw_tiny" / "0.5ms" / "top50.csv", [{"choice": space.choice}])
    subnets, rng = SubnetSpace(space, (32,)), np.random.default_rng(0)
    encodings = [str(subnets.sample(rng)) for _ in accuracies]
    for method in ("evolution", "random"):
        table(results.subnets / method / str(space) / "0.5ms" / "best.csv",
              [{"enc": e, "acc1": a} for e, a in zip(encodings, accuracies, strict=True)])
    table(results.candidates_latency,
          [{"name": f"{space}-{e}", "int8_ms": v} for e, v in zip(encodings, ms, strict=True)])
    return results, encodings


def test_a_ready_teacher_is_quantised_and_not_trained(tmp_path):
    asked = Request(dataset="digits", superspace="cifarw", teacher="efficientnet-lite0", teacher_weights="package",
                    resolutions=(24, 32), output=str(tmp_path))
    plan = make_plan(600, 1000, Spaces("cifarw"), (24, 32), SPEED, STUDENTS)
    steps = Pipeline(Results(asked, plan, 0.5, 10))
    (command,) = [list(map(str, command)) for command in steps.train_teacher()]
    assert "--quant_mode" in command
    assert command[command.index("--resolution") + 1] == "128"  # 4 times the students'
    fp32, int8 = (list(map(str, command)) for command in steps.distil_blocks())
    assert fp32[fp32.index("--teacher_weights") + 1] == "package"
    assert "--teacher_checkpoint_path" not in fp32
    assert int8[int8.index("--teacher_checkpoint_path") + 1] == str(tmp_path / "teacher" / "lsq.pth")


def test_paths_hold_in_the_folder_of_the_scripts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pth").touch()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "platform.json").touch()
    (tmp_path / "my_phone").mkdir()  # a folder of that name is no profile
    asked = Request(dataset="folder", dataset_path="images", teacher_weights="mine.pth", output="out", tables="lut",
                    platform="cpu")
    steps = Pipeline(Results(asked, make_plan(600, 1000, SPACES, (32,), SPEED, STUDENTS), 0.5, 10))
    words = [str(word) for step in (steps.train_teacher, steps.distil_blocks, steps.build_tables)
             for command in step() for word in command]
    assert {str(tmp_path / name) for name in ("mine.pth", "images", "lut", "cpu")} <= set(words)
    assert not {"mine.pth", "images", "lut", "cpu"} & set(words)
    assert Request(dataset="digits").device == this_machine()
    assert Request(dataset="digits", platform="my_phone").device == "my_phone"
    assert Request(dataset="digits", teacher_weights="nowhere.pth").start_weights == "nowhere.pth"


@pytest.mark.parametrize(("epochs", "steps", "warm"), [(1, 5, 0.5), (2, 5, 1.0), (30, 5, 4.0), (30, 400, 0.5)])
def test_the_rate_rises_in_20_steps_or_half_the_training(tmp_path, epochs, steps, warm):
    plan = dataclasses.replace(make_plan(600, 64 * steps, SPACES, (32,), SPEED, STUDENTS), steps=steps)
    pipeline = Pipeline(Results(request(tmp_path), plan, 0.5, 10))
    for command in pipeline._training(tmp_path, epochs, 1, "none", []):
        assert float(command[command.index("--warmup_epochs") + 1]) == warm


def test_the_space_is_searched_within_the_limit_of_the_tables_device(tmp_path):
    results = Results(request(tmp_path), make_plan(600, 1000, SPACES, (32,), SPEED, STUDENTS), 0.5, 10, 0.7)
    (command,) = Pipeline(results).search_space()
    assert command[command.index("--latency_constraint") + 1] == 0.7
    (command, *_) = Pipeline(make_results(tmp_path, (50,), (0.3,))[0]).search_subnets()
    assert command[command.index("--latency_constraint") + 1] == 0.95 * 0.5


def test_block_types_limit_students_tables_and_search(tmp_path):
    asked = Request(dataset="digits", superspace="cifarw_short", block_types=("ResNetBasic",), output=str(tmp_path))
    steps = Pipeline(Results(asked, make_plan(600, 1000, asked.spaces, (24,), SPEED, STUDENTS), 0.5, 10))
    for command in (*steps.distil_blocks(), *steps.build_tables()):
        start = command.index("--stage_list") + 1
        given = itertools.takewhile(lambda word: not str(word).startswith("--"), command[start:])
        assert list(given) == ["stage1_6", "stage3_6", "stage5_6"]
    (command,) = steps.search_space()
    assert command[command.index("--block_types") + 1] == "ResNetBasic"


def test_a_training_free_score_gets_tables_of_the_same_rows_and_counts_in_the_search(tmp_path):
    asked = Request(dataset="digits", superspace="cifarw_short", zero_shot="ZiCo", output=str(tmp_path),
                    tables=str(REPOSITORY / "data" / "block_lut"), block_types=("ResNetBasic",))
    plan = make_plan(600, 1000, asked.spaces, (24,), SPEED, GIVEN)
    pipeline = Pipeline(Results(asked, plan, 0.5, 10, losses=choose_losses(asked)))
    names = [step.name for step in pipeline.steps(Step("plan", lambda: ()), Step("again", lambda: ()))]
    assert names[:2] == ["training-free tables", "search of the space"]
    (tables,), (search,) = pipeline.build_zero_shot_tables(), pipeline.search_space()
    assert tables[tables.index("--proxy"):][:2] == ["--proxy", "ZiCo"]
    assert tables[tables.index("--num_samples_per_stage"):][:6] == \
        ["--num_samples_per_stage", 25, "--manual_seed", 0, "--hw_list", 24]
    assert search[search.index("--zero_shot_lut_path") + 1] == tables[tables.index("--output_path") + 1]
    for command in (tables, search):
        done = run_script(*command)
        assert done.returncode == 0, done.stderr
    assert "best space cifarw_short-666-" in done.stdout


OURS = str(REPOSITORY / "data" / "block_lut")


@pytest.mark.parametrize(("options", "losses"), [
    ({}, Losses(students=True, score="Zen")),
    ({"zero_shot": "none"}, STUDENTS),
    ({"zero_shot": "NASWOT"}, Losses(students=True, score="NASWOT")),
    ({"resolutions": (32,), "superspace": "onnxw_tiny"}, SCORE),  # too small for students
    ({"tables": OURS}, Losses(given=True, score="Zen", scored=True)),
    ({"tables": OURS, "zero_shot": "Zen"}, Losses(given=True, score="Zen", scored=True)),
    ({"tables": OURS, "zero_shot": "NASWOT"}, Losses(given=True, score="NASWOT")),
    ({"tables": OURS, "zero_shot": "none"}, GIVEN),
    ({"tables": OURS, "superspace": "cifarw_tiny"}, Losses(given=True, score="Zen", scored=True)),
    ({"tables": OURS, "superspace": "onnxw_tiny"}, Losses(given=True, score="Zen", scored=True)),
    ({"tables": OURS, "superspace": "onnxw"}, GIVEN),  # without scores
])
def test_a_score_counts_in_the_search_of_the_space_where_it_can(options, losses):
    assert choose_losses(Request(**{"dataset": "digits", "superspace": "cifarw_short", **options})) == losses


def test_scores_of_other_rows_do_not_count(tmp_path):
    """Tables of another draw, as another program makes them: the project's scores are of other blocks."""
    shutil.copytree(Path(OURS) / "cifarw_short", tmp_path / "cifarw_short")
    (tmp_path / "cifarw_short" / "lut.json").write_text(json.dumps({"settings": {
        "platform": "onnxruntime_int8", "resolutions": [24]}}))
    asked = Request(dataset="digits", superspace="cifarw_short", tables=str(tmp_path))
    named = dataclasses.replace(asked, zero_shot="Zen")  # also where rows do not say how they were drawn
    assert choose_losses(asked) == choose_losses(named) == Losses(given=True, score="Zen", scored=True)
    path = tmp_path / "cifarw_short" / "stage3_1_1.csv"
    first, *rest = path.read_text().splitlines(keepends=True)
    _, size, *numbers = first.split(",")
    blocks = (f"{kernel}#{width}#{expand}" for kernel in (3, 5) for width in (64, 80) for expand in (2.0, 4.0, 6.0))
    other = next(block for block in blocks if f"\n{block},{size}" not in path.read_text())
    path.write_text("".join([",".join((other, size, *numbers)), *rest]))
    assert choose_losses(asked) == GIVEN
    with pytest.raises(UserError, match="how their rows were drawn"):
        choose_losses(named)


def test_tables_of_another_program_are_searched_for_the_device_asked_for(tmp_path, capsys):
    """They do not say their device. A teacher is not needed, which is said."""
    shutil.copytree(Path(OURS) / "cifarw_short", tmp_path / "cifarw_short")
    (tmp_path / "cifarw_short" / "lut.json").unlink()
    asked = Request(dataset="digits", superspace="cifarw_short", resolutions=(24,), tables=str(tmp_path),
                    platform="onnx_lut", teacher="nosuch", zero_shot="none")
    losses = choose_losses(asked)
    assert losses == GIVEN
    assert "note: --teacher has no effect with --tables" in capsys.readouterr().err
    plan = make_plan(600, 1000, asked.spaces, (24,), SPEED, GIVEN)
    (search,) = Pipeline(Results(asked, plan, 0.5, 10, losses=losses)).search_space()
    assert search[search.index("--platform") + 1] == "onnx_lut"


@pytest.mark.parametrize(("options", "losses"), [
    ({}, SCORE), ({"budget": "9d"}, Losses(students=True, score="Zen")), ({"zero_shot": "none"}, STUDENTS),
    ({"zero_shot": "Zen"}, Losses(students=True, score="Zen")),
    ({"teacher": "efficientnet-tiny"}, Losses(students=True, score="Zen"))])
def test_a_budget_that_is_short_for_students_has_none(monkeypatch, options, losses):
    monkeypatch.setattr("modules.pipeline.pipeline.measure_speed", lambda *args: SPEED)
    asked = Request(**{"dataset": "digits", "superspace": "cifarw_short", "budget": "10m", "latency_constraint": 1.0,
                       **options})
    state = plan_state(asked)
    assert Losses(**state["losses"]) == losses
    assert (state["plan"]["block_batches"] >= LEAST_TAUGHT) == ("budget" in options)
    assert state["plan"]["table_rows"] > 0


def test_a_score_alone_needs_no_teacher(tmp_path):
    """Its tables have the latency of the device, and the search finds a space with them."""
    asked = Request(dataset="digits", superspace="cifarw_short", output=str(tmp_path), block_types=("ResNetBasic",))
    plan = dataclasses.replace(make_plan(60, 1000, asked.spaces, (24,), SPEED, SCORE), table_rows=4)
    pipeline = Pipeline(Results(asked, plan, 5.0, 10, losses=SCORE))
    names = [step.name for step in pipeline.steps(Step("plan", lambda: ()), Step("again", lambda: ()))]
    assert names[:2] == ["block tables", "search of the space"]
    (tables,), (search,) = pipeline.build_tables(), pipeline.search_space()
    for command in (tables, search):
        done = run_script(*command)
        assert done.returncode == 0, done.stderr
    assert "best space cifarw_short-666-" in done.stdout
    made = json.loads((tmp_path / "tables" / "cifarw_short" / "lut.json").read_text())["settings"]
    assert (made["loss_fn"], made["platform"]) == ("proxy:Zen", asked.platform)


@pytest.mark.parametrize(("accuracies", "ms", "chosen"), [
    ((90, 80, 70), (0.6, 0.4, 0.3), 1),   # the most accurate is over the limit when measured
    ((90, 80, 70), (0.47, 0.4, 0.3), 0),
    ((90, 80, 70), (0.9, 0.7, 0.8), 1),   # none keeps it: the fastest
    ((90, 90, 70), (0.47, 0.4, 0.3), 1),   # equally accurate: the faster one
    ((90, 80, 70), (0.49, 0.4, 0.3), 1),  # so near the limit that the next measurement may be above it
])
def test_the_measured_latency_decides(tmp_path, accuracies, ms, chosen):
    results, encodings = make_results(tmp_path, accuracies, ms)
    assert str(results.best_measured()[0]) == encodings[chosen]


def test_predictions_decide_for_another_device(tmp_path):
    """Nothing is measured for it: a subnet that is quick here may be slow there, and the other way round."""
    results, encodings = make_results(tmp_path, (90, 80, 70), (0.1, 0.1, 0.9))
    foreign = Results(dataclasses.replace(results.request, platform="onnx_lut"), results.plan, 1.0, 10)
    subnets = [SubnetChoiceConfig.from_str(encoding) for encoding in encodings]
    predicted = foreign._predicted(subnets)
    between = sorted(predicted)[1] / 0.95 + 1e-6  # the slowest of the three is over the limit
    foreign.limit = between
    order = sorted(range(3), key=lambda i: (predicted[i] > 0.95 * between, i))
    assert [encodings.index(str(subnet)) for subnet in foreign.best_measured()] == order
    assert Pipeline(foreign).measure_best() == Pipeline(foreign).measure_rivals() == []
    rivals = foreign.rival_candidates()
    latencies = dict(zip(rivals, foreign.predicted(rivals), strict=True))
    foreign.limit = sorted(latencies.values())[2] + 1e-6
    assert latencies[foreign.rival_network()] <= foreign.limit


@pytest.mark.parametrize(("before", "after", "ms", "found", "tuned"), [
    ((80, 70, 75), (81, 85, 76), (0.4, 0.45, 0.2), 1, True),    # training of its own shows the better one
    ((80, 70, 75), (79, 78, 76), (0.4, 0.45, 0.2), 0, False),   # it made the weights worse
    ((80, 70, 75), (81, 79, 84), (0.4, 0.45, 0.2), 2, True),    # the smallest of the space
    ((80, 70, 75), (81, 85, 76), (0.4, 0.55, 0.2), 0, True),    # over the limit
])
def test_the_most_accurate_finalist_within_the_limit_is_found(tmp_path, before, after, ms, found, tuned):
    results, encodings = make_results(tmp_path, (90, 80), ms[:2])
    encodings.append(str(results.smallest))
    with open(results.candidates_latency, "a") as file:
        print(f"{results.space}-{results.smallest},{ms[2]}", file=file)
    assert [str(subnet) for subnet in results.finalists()] == encodings
    table(results.check / "supernet" / "accuracy.csv",
          [{"enc": e, "acc1": a} for e, a in zip(encodings, before, strict=True)])
    for subnet, accuracy in zip(results.finalists(), after, strict=True):
        table(results.check / results.tuned_folder(subnet).name / "accuracy.csv",
              [{"enc": str(subnet), "acc1": accuracy}])
    assert str(results.found) == encodings[found]
    assert (results.best_checkpoints(results.found) != results.supernet) == tuned


@pytest.mark.parametrize(("after", "kept"), [(86, "last"), (84, "subnet1")])
def test_the_last_training_counts_where_it_helped(tmp_path, after, kept):
    """The file of the network found has the better weights; the others keep those of the finalists' training."""
    results, encodings = make_results(tmp_path, (90, 80), (0.4, 0.45))
    append_row(results.candidates_latency, {"name": f"{results.space}-{results.smallest}", "int8_ms": 0.2})
    append_row(results.rivals_latency, {"name": "mobilenet_v2:0.25", "int8_ms": 0.4})
    for subnet, accuracy in zip(results.trained(), (85, 80, 70), strict=True):
        append_row(results.check / "supernet" / "accuracy.csv", {"enc": str(subnet), "acc1": 60})
        append_row(results.check_folder(results.tuned_folder(subnet)) / "accuracy.csv",
                   {"enc": str(subnet), "acc1": accuracy})
    pipeline = Pipeline(results)
    rival, (fp32, int8) = pipeline.train_last()
    assert (len(rival), str(results.found)) == (2, encodings[0])
    assert fp32[fp32.index("--init_checkpoint") + 1].parent.parent == results.tuned_folder(results.found)
    assert int8[int8.index("--models_save_dir") + 1] == results.last
    pipeline.check_last()
    append_row(results.check_folder(results.last) / "accuracy.csv", {"enc": encodings[0], "acc1": after})
    pipeline.train_last()
    exports = results.exports()
    assert exports["found"][0].name == kept
    results.plan = dataclasses.replace(results.plan, tuning_epochs=5, tuning_int8_epochs=2, last_epochs=30,
                                       last_int8_epochs=3)
    assert results.epochs("found") == ((35, 3) if kept == "last" else (5, 2))  # those of the weights in the file
    assert results.epochs("smallest") == (5, 2)
    results.check_folder(results.tuned_folder(results.smallest)).joinpath("accuracy.csv").unlink()
    append_row(results.check_folder(results.tuned_folder(results.smallest)) / "accuracy.csv",
               {"enc": str(results.smallest), "acc1": 59})
    assert results.epochs("smallest") == (0, 0)  # the supernet's are better
    append_row(results.check_folder(results.tuned_folder(results.smallest)) / "accuracy.csv",
               {"enc": "none", "acc1": 0})
    assert exports["smallest"][0] == results.tuned_folder(results.smallest)
    assert exports["mobilenet_v2"][0] == results.rival
    assert pipeline.check_last()[0][0] == "eval_supernet.py"  # a killed step begins anew: its row goes, no other
    assert not results.check_folder(results.last).exists()
    assert str(results.found) == encodings[0]


def test_small_images_are_shifted_and_others_cropped(tmp_path):
    for shifted in (True, False):
        results = Results(request(tmp_path), plan_for_the_end(), 0.5, 10, shifted=shifted)
        for command in Pipeline(results)._training(tmp_path, 5, 1, "none", []):
            assert ("shift" in command) == shifted


def test_a_repeated_step_begins_its_tables_anew(tmp_path):
    """A step killed after half of its scripts runs again as a whole: each row is there once."""
    results, encodings = make_results(tmp_path, (90, 80), (0.4, 0.45))
    append_row(results.candidates_latency, {"name": f"{results.space}-{results.smallest}", "int8_ms": 0.2})
    for scripts in (1, None):
        for (command,) in Pipeline(results).check_tuned()[:scripts]:
            words = list(map(str, command))
            for subnet in words[words.index("--subnet_choice") + 1:]:
                append_row(Path(words[words.index("--output") + 1]) / "accuracy.csv", {"enc": subnet, "acc1": 80})
    assert str(results.found) == encodings[0]
    for step, path in ((Pipeline(results).measure_rivals, results.rivals_latency),
                       (Pipeline(results).measure_best, results.candidates_latency)):
        append_row(path, {"name": "x", "int8_ms": 1})
        step()
        assert not path.exists()


def test_every_path_of_the_results_is_removed_by_a_fresh_run(tmp_path):
    results = make_results(tmp_path, (50,), (0.3,))[0]
    paths = {path.name for path in vars(results).values() if isinstance(path, Path) and path.parent == tmp_path}
    assert paths == set(FILES)


# -- steps ----------------------------------------------------------------------------------------------------------

def test_a_finished_step_is_not_run_again_and_a_failed_one_is(tmp_path):
    marks, broken = tmp_path / "marks", [True]

    def step(name, fails=False):
        body = f"open({str(marks)!r}, 'a').write({name!r})" + ("; raise SystemExit(3)" if fails and broken else "")
        script = tmp_path / f"{name}.py"
        script.write_text(body)
        return Step(name, lambda: [[script]])

    def run(resume):
        with Run(tmp_path / "state.json", resume=resume, overwrite=False, option="--output") as opened:
            state = opened.read_state({}) if opened.continues else {}
            run_steps(opened, {}, state, [step("a"), step("b", fails=True), step("c")])

    def seconds() -> dict:
        return json.loads((tmp_path / "state.json").read_text())["seconds"]

    with pytest.raises(UserError, match=r"b.py ended with status 3.*--resume"):
        run(resume=False)
    assert marks.read_text() == "ab"
    assert list(seconds()) == ["a", "b, stopped"]  # part of the budget
    broken.clear()
    run(resume=True)
    assert marks.read_text() == "abbc"
    assert list(seconds()) == ["a", "b, stopped", "b", "c"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a script with its parent")
def test_a_script_ends_with_a_pipeline_that_is_killed(tmp_path):
    """Otherwise it would train on, and the continued pipeline would find its folder in use."""
    mark, script = tmp_path / "pid", tmp_path / "long.py"
    script.write_text(f"""import os, pathlib, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from modules.utils.cli import run
def main():
    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))
    time.sleep(60)
run(main)
""")
    parent = subprocess.Popen([sys.executable, "-c", f"from modules.pipeline.runner import run_script; "
                               f"run_script([{str(script)!r}], 1)"], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (mark.is_file() and mark.read_text()):
        time.sleep(0.05)
    child = int(mark.read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while time.monotonic() < until and is_alive(child):
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for init to look at it."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_sequences_run_side_by_side_and_share_the_threads(tmp_path, capfd):
    """The first scripts of two sequences wait for each other; a failure keeps what is left from starting."""
    (tmp_path / "wait.py").write_text(
        "import os, pathlib, sys, time\n"
        f"mine, other = (pathlib.Path({str(tmp_path)!r}, name) for name in sys.argv[1:])\n"
        "mine.write_text(os.environ['OMP_NUM_THREADS'])\n"
        "while not other.exists():\n    time.sleep(0.01)\n"
        "print('seen by', mine.name)")
    (tmp_path / "fail.py").write_text("raise SystemExit(3)")
    wait, fail = tmp_path / "wait.py", tmp_path / "fail.py"

    def run(name, *sequences):
        with Run(tmp_path / name, resume=False, overwrite=False, option="--output") as opened:
            run_steps(opened, {}, {}, [Step("a", lambda: sequences, side_by_side=True)], threads=5)

    run("state.json", [[wait, "a", "b"], [wait, "c", "d"]], [[wait, "b", "a"], [wait, "d", "c"]])
    assert [(tmp_path / name).read_text() for name in "abcd"] == ["2"] * 4
    printed = capfd.readouterr().out
    assert all(f"\nseen by {name}\n" in printed for name in "abcd")
    with pytest.raises(UserError, match=r"fail.py ended with status 3"):
        run("failed.json", [[fail], [wait, "e", "e"]], [[wait, "f", "f"], [fail]], [[wait, "g", "g"]])
    assert not (tmp_path / "e").exists()


def test_trainings_side_by_side_leave_time_for_more_epochs():
    """Two threads that train two networks at once take half as long for an epoch of all."""
    one, two = (make_plan(10000, 4000, SPACES, (32,), Speed(0.4, 0.4, 0.2, threads=threads), STUDENTS)
                for threads in (1, 2))
    assert two.tuning_epochs / one.tuning_epochs == pytest.approx(2, rel=0.05)
    assert two.supernet_epochs == one.supernet_epochs


def test_bad_input_is_one_line_before_anything_is_written(tmp_path):
    for options, words in ((["--dataset_path", tmp_path / "nowhere"], "nowhere"),
                           (["--dataset", "digits", "--superspace", "nosuch"], "nosuch"),
                           (["--dataset", "digits", "--budget", "never"], "never"),
                           (["--dataset", "digits", "--resolutions", "32", "--zero_shot", "none"],
                            "--resolutions: the output of stage5"),
                           (["--dataset", "digits", "--platform", "nosuch"], "nosuch"),
                           (["--dataset", "digits", "--zero_shot", "Zan"], "Zan"),
                           (["--dataset", "digits", "--superspace", "onnxw", "--zero_shot", "Zen", "--tables",
                             "data/block_lut"], "how their rows were drawn")):
        done = run_script("-m", "modules.pipeline", "--output", tmp_path / "out", *options)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert words in done.stderr
        assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.slow
def test_a_folder_of_images_killed_and_resumed(tmp_path):
    """The whole pipeline at its smallest, killed in two of its steps; it ends with a file within its promises."""
    command = ["-m", "modules.pipeline", "--dataset_path", digit_folder(tmp_path / "photos", train=450, val=150),
               "--budget", "20s", "--output", tmp_path / "out", "--resume"]
    environment = {"SPACEEVO_CACHE": str(tmp_path / "cache")}
    for step in ("search of the space", "training of the finalists"):
        printed = tmp_path / f"until the {step}"
        with open(printed, "wb") as file:
            process = subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, env=os.environ | environment,
                                       stdout=file, start_new_session=True)
        until = time.monotonic() + 900
        while not re.search(rf"^== \d+/\d+ {step}\n\n\$ python", printed.read_text(), re.MULTILINE):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert step not in json.loads((tmp_path / "out" / "pipeline.json").read_text())["seconds"]
    done = run_script(*command, env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [path.read_text() for path in tmp_path.glob("until the *")]
    scripts = set(re.findall(r"^\$ python (.*)", "".join([*told, done.stdout]), re.MULTILINE))
    most = count_scripts(SCORE, baselines=True)
    # Fewer where the searches found the same subnets; none for a supernet, for which 20 seconds are short.
    assert most - 12 <= len(scripts) <= most - 3
    path = Path(re.search(r"The INT8 file: (.*)", done.stdout)[1])
    card = json.loads(path.with_name(f"{path.name}.card.json").read_text())
    assert card["agreement"]["percent"] > 90  # near chance, after so little training, logits are nearly equal
    found = run_script("onnx_tools/eval_onnx.py", "--model_path", path, "--dataset_path", tmp_path / "photos")
    assert f"{card['accuracy']['engine']['top1']:.2f}" in found.stdout, found.stdout + found.stderr
    again = run_script(*command, env=environment)
    state = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert again.stdout.count("done before") == len(state["seconds"].keys() - {"plan"})  # the first plan is no step


def test_folders_of_others_stay(tmp_path):
    """A run in a folder with a file or folder that is called as one of its own, but which no run wrote."""
    kept = tmp_path / "models" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    with pytest.raises(UserError, match=r"models' is there, but no pipeline.json .* give another --output"):
        run_pipeline(request(tmp_path))
    assert kept.read_text() == "years of work"


def test_a_run_of_before_an_option_continues_and_one_with_another_value_does_not(tmp_path):
    asked = request(tmp_path)
    newer = {"zero_shot", "fitness"}
    state = {"identity": {name: value for name, value in asked.identity.items() if name not in newer}, "plan": {}}
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"damaged \(Plan"):  # its settings are taken; the rest is missing here
        run_pipeline(asked, resume=True)
    for change in ({"fitness": "accuracy"}, {"zero_shot": "none"}):
        (name, value), = change.items()
        with pytest.raises(UserError, match=f"{name} was 'auto' .* and is '{value}' now"):
            run_pipeline(dataclasses.replace(asked, **change), resume=True)
        (tmp_path / STATE_FILE).write_text(json.dumps({"identity": asked.identity | change}))
        with pytest.raises(UserError, match=f"{name} was '{value}' .* and is 'auto' now"):
            run_pipeline(asked, resume=True)
        (tmp_path / STATE_FILE).write_text(json.dumps(state))


def test_the_last_lines_compare_the_files():
    """Test images against networks of other spaces; held-out images after equal training against other subnets."""
    entries = [Entry(name, Path(name), {"accuracy": {"engine": {"top1": top1}}}, ms)
               for name, top1, ms in (("found", 90.0, 0.2), ("smallest", 80.0, 0.1), ("mobilenet_v2", 84.5, 0.3))]
    held_out, subnets = {"a": 88.0, "b": 81.5}, {"found": "a", "smallest": "b", "random_search": "a"}
    results = SimpleNamespace(compared=lambda: subnets, best_checkpoints=lambda subnet: subnet,
                              accuracy_held_out=lambda _, subnet: held_out[subnet])
    assert gains(entries, results) == [
        "against smallest of the space: +6.5 points of held-out images after the same training, 0.50 times as fast",
        "against MobileNetV2: +5.5 points, 1.50 times as fast"]
    assert same(entries, results) == ["random search: a network that is in the table already"]
