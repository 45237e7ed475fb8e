"""Limits of the zero-shot search: presets, the interval where a latency extrapolates, measured latencies at the end."""
import csv

import pytest

from modules.latency import get_platform, predict_subnets
from modules.search.measured import measure_best
from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zen_space import PRESETS, SPACES
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.runs import STATE_FILE, Run
from modules.zero_shot.network import structure_net
from modules.zero_shot.search import FILES, LOGS, Limits, ZenSearch

START = Structure.parse(SPACES["cifar"].start)


def a_search(limits: Limits, **more) -> ZenSearch:
    return ZenSearch(SPACES["cifar"], START, limits, proxy="Params", batch=2, classes=10, resolution=32,
                     population_size=16, seed=4, **more)


def test_presets_are_the_published_searches():
    """zen_nas.md, section 2."""
    assert {name: (p.layers, p.model_size or p.flops or p.latency) for name, p in PRESETS.items()} == {
        "cifar_1M": (18, 1e6), "cifar_2M": (20, 2e6), "flops_400M": (14, 4e8), "flops_600M": (14, 6e8),
        "flops_800M": (16, 8e8), "latency_0.1ms": (10, 0.1), "latency_0.2ms": (13, 0.2), "latency_0.3ms": (16, 0.3),
        "latency_0.5ms": (20, 0.5), "latency_0.8ms": (25, 0.8), "latency_1.2ms": (30, 1.2)}
    assert all(name.startswith(preset.space) for name, preset in PRESETS.items())


def test_a_space_without_budget_has_that_of_its_first_preset(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "zen_nas"))
    from search import main

    common = ["--save_dir", str(tmp_path), "--zero_shot_score", "Params", "--max_evaluations", "2"]
    main(["--space", "flops", *common])
    assert capsys.readouterr().out.startswith("limits: at most 14 layers, at most 4e+08 multiply-accumulates\n")
    for options, limits in (
            (["--budget_flops", "1e8"], "20 layers, at most 2e+06 parameters, at most 1e+08 multiply-accumulates"),
            (["--budget_model_size", "1e6", "--max_layers", "18"], "18 layers, at most 1e+06 parameters"),
            (["--max_mflops", "90"], "20 layers, at most 2e+06 parameters, --max_mflops 90")):
        main(["--preset", "cifar_2M", *options, "--overwrite", *common])
        assert capsys.readouterr().out.startswith(f"limits: at most {limits}\n")
    with pytest.raises(UserError, match="--budget_latency without --platform"):
        main(["--space", "latency", *common])


def test_the_interval_counts_where_a_latency_extrapolates():
    platform = "epyc_onnxruntime_int8"
    careful = a_search(Limits(18, latency=1.0, platform=platform))
    bold = a_search(Limits(18, latency=1.0, platform=platform, confidence=0.0))
    prediction = predict_subnets(careful.platform, [structure_net(START, 32, 10)])
    assert prediction.extrapolated[0]  # nothing of Zen's units was fitted
    assert bold.latency(START) == pytest.approx(prediction.ms[0])
    # the 90% point of a normal law lies 1.2816 deviations above its mean
    assert careful.latency(START) == pytest.approx(prediction.ms[0] + 1.281552 * prediction.std[0], rel=1e-5)


def test_structures_are_measured_from_the_best_down():
    structures = [Structure.parse(f"SuperConvK3BNRELU(3,{8 * i},1,1)") for i in range(1, 101)]
    ranked = [(structure, 100.0 - i) for i, structure in enumerate(structures)]
    measured = {structure: 10.0 if i % 3 else 1.0 for i, structure in enumerate(structures)}
    found = measure_best(ranked, lambda s: 0.5, measured.__getitem__, lambda ms: ms <= 2, 2)
    assert [m.individual for m in found] == [structures[0], structures[3], structures[1], structures[2]]
    assert [m.measured for m in found] == [1, 1, 10, 10]
    assert len(measure_best(ranked, lambda s: 0.5, lambda s: 3.0, lambda ms: ms <= 2, 2)) == 40  # none is within


def test_the_result_is_within_the_limit_as_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "cache"))
    limits = Limits(18, latency=50.0, platform="onnxruntime_int8")  # any network, on a busy machine too
    search = a_search(limits, measure=1)
    with Run(tmp_path / "s" / STATE_FILE, logs=LOGS, files=FILES, resume=False, overwrite=False,
             option="--save_dir") as run:
        best = search.run(run, 12)
    with open(tmp_path / "s" / "measured.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["structure"] for row in rows] == [str(best)] == [str(search.history.top(1)[0].individual)]
    assert float(rows[0]["score"]) == pytest.approx(search.history.top(1)[0].fitness, rel=1e-4)
    assert 0 < float(rows[0]["measured_ms"]) < 50
    again = search.platform.measure_subnet(structure_net(Structure.parse(rows[0]["structure"]), 32, 10))
    assert again == pytest.approx(float(rows[0]["measured_ms"]), abs=1e-4)  # from the cache
    assert again > 0
    with pytest.raises(UserError, match="--measure_best: platform onnx_lut does not measure"):
        a_search(Limits(18, latency=1.0, platform="onnx_lut"), measure=1)


def test_a_search_on_a_slower_device_than_predicted_keeps_its_limit(tmp_path, capsys):
    """A device that takes 1.7 times the predicted latency of every network; killed in the second round, too."""
    limit = 2.2 * predict_subnets(get_platform("onnx_lut"), [structure_net(START, 32, 10)]).ms[0]

    def slow(kills: int = 0):
        search = a_search(Limits(18, latency=limit, platform="onnx_lut", confidence=0))
        search.measure, search.timer = 2, lambda net: 1.7 * float(predict_subnets(search.platform, [net]).ms[0])
        if kills:
            search.evolution.score_all = Killed(search.evolution.score_all, kills)
        return search

    def run(search, name: str, resume: bool):
        with Run(tmp_path / name / STATE_FILE, logs=LOGS, files=FILES, resume=resume, overwrite=False,
                 option="--save_dir") as opened:
            return search.run(opened, 10**4, 40, save_seconds=0)

    search = slow()
    best = run(search, "whole", False)
    assert search.round == 1
    assert search.factor == pytest.approx(1.7)
    assert "none of the 8 best structures" in capsys.readouterr().out
    keeping = [e for e in search.history.entries if 1.7 * search.latency(e.individual) <= limit]
    assert best == max(keeping, key=lambda e: e.fitness).individual
    assert 40 < len(search.history) <= 50
    assert (tmp_path / "whole" / "measured.csv").read_text().splitlines()[1].split(",")[3] == "1"
    with pytest.raises(KeyboardInterrupt):
        run(slow(45), "killed", False)
    again = slow()
    assert run(again, "killed", True) == best
    assert [(e.individual, e.fitness) for e in again.history.entries] == [
        (e.individual, e.fitness) for e in search.history.entries]


class Killed:
    """A function that can be called `count` times."""

    def __init__(self, function, count: int):
        self.function, self.count = function, count

    def __call__(self, argument):
        self.count -= 1
        if self.count < 0:
            raise KeyboardInterrupt
        return self.function(argument)
