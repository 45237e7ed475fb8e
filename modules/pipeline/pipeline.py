"""The pipeline as a run that can be killed and continued."""
from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial

from modules.block_kd.lut.speed import limit_of_sums
from modules.block_kd.lut.tables import how_made, load_tables
from modules.datasets.build import load_data
from modules.datasets.classes import check_enough_classes
from modules.datasets.shift import suits
from modules.latency import get_platform
from modules.pipeline.limit import choose_limit
from modules.pipeline.losses import SCORE_ALONE, Losses, choose_losses
from modules.pipeline.plan import LEAST_TAUGHT, Plan, file_seconds, make_plan, plan_last
from modules.pipeline.request import ACCURACY, AUTO, OWN, Request
from modules.pipeline.results import FILES, Results
from modules.pipeline.runner import Step, run_steps
from modules.pipeline.speed import measure_speed, mixture, step_seconds
from modules.pipeline.steps import CHECK, Pipeline
from modules.pipeline.summary import Entry, print_summary
from modules.utils.runs import Run
from modules.zero_shot.scoring import check_proxy

STATE_FILE = "pipeline.json"
_NEWER = {"zero_shot": AUTO, "fitness": AUTO}  # options that older runs were made without


def run_pipeline(request: Request, *, resume: bool = False, overwrite: bool = False) -> list[Entry]:
    """Run all steps that are not done in `request.folder` yet, and print the summary. Returns the compared networks.

    Raises:
        UserError: bad images, an unknown name, a limit that cannot be kept, a script that failed; the folder holds a
            run and neither `resume` nor `overwrite` is set.
    """
    with Run(request.folder / STATE_FILE, files=FILES, resume=resume, overwrite=overwrite, option="--output") as run:
        run.check_unclaimed()
        state = run.read_state(request.identity, _NEWER) if run.continues else plan_state(request)
        with run.reading():
            plan = Plan(**{name: tuple(value) if isinstance(value, list) else value
                           for name, value in state["plan"].items()})
            limit = float(state["limit"])
            results = Results(request, plan, limit, int(state["classes"]), float(state.get("table_limit", limit)),
                              bool(state.get("shifted")), Losses(**state["losses"]) if "losses" in state else None)
            images, tests = int(state["images"]), int(state.get("tests", plan.valid_size))
        run.begin()
        run.write_state(request.identity, state)
        tables = "" if results.table_limit == limit else f", {results.table_limit:g} ms as a sum of the tables' rows"
        print(f"Limit: {limit:g} ms on {request.platform}{tables}.\nPlan for {request.seconds / 60:g} minutes: {plan}.",
              flush=True)

        def left() -> float:
            return request.seconds - sum(state["seconds"].values())

        def take(plan: Plan, words: str) -> tuple:
            results.plan, state["plan"] = plan, asdict(plan)
            print(f"Plan for the rest: {words}.", flush=True)
            return ()

        def plan_trainings() -> tuple:
            plan = _plan_trainings(results, images, left())
            return take(plan, str(plan))

        def plan_last_training() -> tuple:
            files = file_seconds(results.plan, tests, results.num_exports, state["seconds"][CHECK],
                                 len(results.checked()))
            plan = _plan_last(results, left() - files)
            return take(plan, plan.last())

        run_steps(run, request.identity, state, Pipeline(results).steps(
            Step("plan of the trainings", plan_trainings), Step("plan of the last training", plan_last_training)),
            plan.threads)
        return print_summary(results)


def plan_state(request: Request) -> dict:
    """The state of a new run: the limit, the losses of the tables, and the first plan, from measured speeds.

    Raises:
        UserError: as `run_pipeline`.
    """
    start = time.monotonic()
    data = load_data(request.dataset or None, request.dataset_path or None)
    check_enough_classes(data.info)
    classes = len(data.info.classes)
    if request.fitness not in (AUTO, ACCURACY):
        check_proxy(request.fitness)
    losses = choose_losses(request)
    limit = choose_limit(request.latency_constraint, request.spaces, request.pixels, request.platform, classes)
    speed = measure_speed(mixture(request.spaces), max(request.pixels), classes,
                          request.teacher_arch if losses.students else "")
    plan_with = partial(make_plan, request.seconds, len(data.train_indices), request.spaces, request.pixels, speed,
                        baselines=not request.no_baselines, fitness=request.fitness)
    plan = plan_with(losses)
    if losses.students and request.may_lack_students and plan.block_batches < LEAST_TAUGHT:
        losses = SCORE_ALONE
        plan = plan_with(losses)
    return {"limit": limit, "table_limit": _table_limit(limit, request, classes), "classes": classes,
            "images": len(data.train_indices), "tests": len(data.test_indices),
            "shifted": suits(data, max(request.pixels)), "plan": asdict(plan), "losses": asdict(losses),
            "seconds": {"plan": round(time.monotonic() - start, 1)}}


def _table_limit(limit: float, request: Request, classes: int) -> float:
    """The limit (ms) for sums of the tables' rows, which are longer than networks and may come from another device, or
    from a faster or slower one of the same kind."""
    tables, most, rows = None, max(request.pixels), []
    if request.tables != OWN:
        _, resolutions = how_made(request.tables, request.superspace, otherwise=request.platform)
        tables = load_tables(request.tables, request.superspace, resolutions, request.spaces.seeds())
        near = max((r for r in tables.resolutions if r <= most), default=min(tables.resolutions))
        rows = request.spaces.random_nets(near, classes)
    nets = request.spaces.random_nets(most, classes)
    return limit_of_sums(limit, nets, get_platform(request.platform), tables, rows)


def _plan_trainings(results: Results, images: int, seconds: float) -> Plan:
    """The plan for the `seconds` that are left once the space is found: its supernet may be several times as fast as
    that of another space."""
    request, plan = results.request, results.plan
    speed = measure_speed(results.space, max(plan.resolutions), results.classes, threads=plan.threads)
    return make_plan(seconds, images, request.spaces, plan.resolutions, speed, Losses(given=True),
                     not request.no_baselines, request.fitness)


def _plan_last(results: Results, seconds: float) -> Plan:
    """The plan for the `seconds` that are left once the network is found."""
    plan, networks = results.plan, [(results.space, results.found)]
    if not results.request.no_baselines:
        networks.append(results.rival_network())
    threads = plan.threads // min(plan.threads, len(networks))
    return plan_last(plan, seconds, *(step_seconds(network, results.classes, threads) for network in networks))
