"""The subnet search on a known landscape with invented latencies."""
import csv
import itertools
import json
import math
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from pareto import dominated

from modules.latency.keys import block_key
from modules.latency.prediction import Prediction
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search.evolution import History
from modules.search.generations import GenerationSizes
from modules.search.subnet import state as subnet_state
from modules.search.subnet.proposals import Proposer, SearchSettings
from modules.search.subnet.search import FILES, SubnetSearch, run_search
from modules.search.subnet.state import SearchState
from modules.search.subnet.tables import read_points
from modules.search.subnet.window import Window
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.evaluation import Accuracy
from modules.utils.errors import UserError
from modules.utils.runs import Run

SPACE = SupernetConfig.from_choice("onnxw_tiny", "053412-000000")
SUBNETS = SubnetSpace(SPACE, (32, 48, 64))
TARGET = SUBNETS.sample(np.random.default_rng(99))
SIZES = GenerationSizes(population_size=16, mutation_size=8, crossover_size=8)


class Ruler:
    """A platform whose latency is known: a tenth of a millisecond per million multiply-accumulates."""

    def predict_subnet(self, spec):
        return count_net_flops_and_params(spec)[0] / 10


@cache
def latency_of(choice):
    return count_net_flops_and_params(resolve(SPACE, choice, 10))[0] / 10


class Landscape:
    """Accuracy: the share of kernel sizes, widths, expand ratios and depths that equal TARGET's. Counts its calls."""

    def __init__(self):
        self.calls = Counter()

    def __call__(self, choices, test=False):
        for choice in choices:
            self.calls[choice, test] += 1
            yield Accuracy(self.of(choice), 100.0, 1.0, 400)

    @staticmethod
    def of(choice):
        genes = [(len(a) == len(b)) for a, b in zip(choice.stages, TARGET.stages, strict=True)]
        for mine, theirs in zip(choice.stages, TARGET.stages, strict=True):
            for a, b in itertools.zip_longest(mine, theirs):
                genes += [a is not None and b is not None and getattr(a, name) == getattr(b, name)
                          for name in ("kernel", "width", "expand")] if b else []
        return 100 * sum(genes) / len(genes)


LIMIT = round(float(np.median([latency_of(SUBNETS.sample(np.random.default_rng(i))) for i in range(200)])), 2)
WINDOW = Window((LIMIT,), LIMIT)


def make_search(folder, evaluate=None, platform=None, resume=False, overwrite=False, platforms=None, **changes):
    settings = SearchSettings(**{"limits": (LIMIT,), "delta": LIMIT, "sizes": SIZES, "rounds": 3, **changes})
    with Run(folder / "state.json", files=FILES, resume=resume, overwrite=overwrite, option="--output_path") as opened:
        state = SearchState(opened, settings.identity)
    proposer = Proposer(SUBNETS, platforms or {"ruler": platform or Ruler()}, 10, settings)
    return SubnetSearch(proposer, evaluate or Landscape(), state)


def finish(search, folder, **options):
    return run_search(search, folder, folder / "search.log", **options)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- who is evaluated

@pytest.mark.parametrize("method", ["evolution", "random"])
def test_every_individual_is_legal_new_and_within_a_window(tmp_path, method):
    limits, delta = (LIMIT, 1.5 * LIMIT), 0.3 * LIMIT
    search = make_search(tmp_path, method=method, limits=limits, delta=delta)
    results = list(search.run())
    assert len({r.proposal.choice for r in results}) == len(results) == 2 * (16 + 3 * 16)
    assert max(search.evaluate.calls.values()) == 1
    for result in results:
        p = result.proposal
        SUBNETS.check(p.choice)
        assert p.latency.ms == (pytest.approx(latency_of(p.choice)),)
        assert p.limits[0] - delta <= p.ms <= p.limits[0]
        assert (p.mflops, p.params) == count_net_flops_and_params(resolve(SPACE, p.choice, 10))
    assert Counter((r.proposal.round, r.proposal.limits) for r in results) == {
        (number, (limit,)): 16 for number in range(4) for limit in limits}


def test_overlapping_windows_share_their_subnets_in_whatever_order_they_are_given(tmp_path):
    limits = (0.8 * LIMIT, LIMIT, 1.2 * LIMIT)
    starts = [make_search(tmp_path / str(i), method="random", limits=order, delta=LIMIT)
              .proposer.propose(0, History(None, float)) for i, order in enumerate((limits, limits[::-1]))]
    assert starts[0] == starts[1]
    for lower, limit in zip((0, *limits[:-1]), limits, strict=True):
        assert sum(p.ms <= limit for p in starts[0]) >= SIZES.population_size
        assert any(lower < p.ms <= limit for p in starts[0])


def test_evolution_beats_random_at_the_same_number_of_evaluations(tmp_path):
    sizes, best = GenerationSizes(40, mutation_size=20, crossover_size=20), {"evolution": [], "random": []}
    for seed, method in itertools.product(range(4), best):
        search = make_search(tmp_path / f"{seed}{method}", method=method, sizes=sizes, rounds=5, seed=seed)
        assert len(list(search.run())) == 240
        best[method].append(max(Landscape.of(r.proposal.choice) for r in search.evaluated))
    gains = np.subtract(best["evolution"], best["random"])
    assert (gains > 0).all()
    assert gains.mean() > 5


def test_seeds_decide(tmp_path):
    drawn = [[r.proposal.choice for r in make_search(tmp_path / str(i), seed=seed).run()]
             for i, seed in enumerate((0, 0, 1))]
    assert drawn[0] == drawn[1] != drawn[2]
    ends = {SUBNETS.extreme(min), SUBNETS.extreme(max)}  # every evolution starts from them
    assert not set(drawn[0][:16]) & set(drawn[2][:16]) - ends


def test_a_resumed_search_goes_on_counting_what_its_filter_keeps_out(tmp_path):
    def search(resume=False):
        made = make_search(tmp_path, prefilter="QE", prefilter_keep=0.5, resume=resume)
        made.proposer.score = latency_of
        return made

    whole = search()
    finish(whole, tmp_path)
    assert search(resume=True).proposer.filtered == whole.proposer.filtered == len(whole.evaluated) == 4 * 8


def test_the_last_generation_is_considered(tmp_path):
    counter = itertools.count()

    def rising(choices, test=False):
        for _ in choices:
            yield Accuracy(next(counter) / 10, 100.0, 1.0, 1000)

    search = make_search(tmp_path, rising)
    best = finish(search, tmp_path)[WINDOW][0]
    assert best.proposal.round == 3
    assert best.accuracy.top1 == pytest.approx((16 * 4 - 1) / 10)
    assert f"Best Valid Acc within {LIMIT:g} ms: {best.accuracy.top1:.2f}" in (tmp_path / "search.log").read_text()


def test_limits_share_evaluations(tmp_path):
    limits = (LIMIT, 1.1 * LIMIT, 1.2 * LIMIT)
    search = make_search(tmp_path, limits=limits, delta=LIMIT / 2)
    ranking = finish(search, tmp_path)
    assert set(search.evaluate.calls.values()) == {1}
    assert len(search.state.generations[0]) < 16 * 3  # what one limit drew counts for the others
    for limit in limits:
        within = [r for r in search.evaluated if limit - LIMIT / 2 <= latency_of(r.proposal.choice) <= limit]
        best = ranking[Window((limit,), LIMIT / 2)][0]
        assert best.accuracy.top1 == max(Landscape.of(r.proposal.choice) for r in within)
        assert len(within) >= 16
    rows = read(tmp_path / "front.csv")
    every = [(latency_of(r.proposal.choice), Landscape.of(r.proposal.choice)) for r in search.evaluated]
    assert {row["enc"] for row in rows} == {str(r.proposal.choice) for r, point in
                                            zip(search.evaluated, every, strict=True) if not dominated(point, every)}


@pytest.mark.parametrize("method", ["evolution", "random"])
@pytest.mark.parametrize("bound", [1, 30, 64])
def test_a_bound_on_evaluations_is_met(tmp_path, method, bound):
    search = make_search(tmp_path, method=method, max_evaluations=bound, limits=(LIMIT, 1.2 * LIMIT), delta=LIMIT / 10)
    assert len(finish(search, tmp_path)) == min(bound, 2)
    assert sum(search.evaluate.calls.values()) == bound == len(read(tmp_path / "subnets.csv"))


@pytest.mark.parametrize("limit", [0.001, 1000.0, None])
def test_an_infeasible_window_is_refused_with_the_reachable_range(tmp_path, limit):
    low, high = (latency_of(SUBNETS.extreme(pick)) for pick in (min, max))
    asked = Counter()

    class Counting(Ruler):
        def predict_subnet(self, spec):
            asked["draws"] += 1
            return super().predict_subnet(spec)

    with pytest.raises(UserError) as error:
        # None: inside the range, but too narrow to be met
        list(make_search(tmp_path, platform=Counting(), limits=(limit or (low + high) / 2,), delta=1e-12).run())
    numbers = re.search(r"reachable: ([\d.]+) to ([\d.]+) ms", str(error.value))
    assert float(numbers[1]) == pytest.approx(low, abs=1e-3)
    assert float(numbers[2]) == pytest.approx(high, abs=1e-3)
    assert asked["draws"] <= (10_002 if limit is None else 1_002)
    assert not (tmp_path / "state.json").exists()


# ---------------------------------------------------------------- resume

class Interrupted(Exception):
    pass


@pytest.mark.parametrize("end", [0, 8, 17, 58])
def test_a_resumed_search_ends_like_an_uninterrupted_one(tmp_path, monkeypatch, end):
    monkeypatch.setattr(subnet_state, "SAVE_SECONDS", 0.0)
    whole, killed, count = tmp_path / "whole", tmp_path / "killed", itertools.count()
    options = {"limits": (LIMIT, 1.2 * LIMIT), "sizes": GenerationSizes(8, 0.5, 4, 4)}
    finish(make_search(whole, **options), whole, top_num=3, tested=True)
    total = len(read(whole / "subnets.csv"))

    def stops(choices, test=False):
        for accuracy in Landscape()(choices, test):
            if next(count) == end:
                raise Interrupted
            yield accuracy

    with pytest.raises(Interrupted):
        finish(make_search(killed, stops, **options), killed, top_num=3, tested=True)
    with pytest.raises(UserError, match="continue it with --resume, replace it"):
        make_search(killed, **options)
    landscape = Landscape()
    finish(make_search(killed, landscape, resume=True, **options), killed, top_num=3, tested=True)
    assert sum(n for (_, test), n in landscape.calls.items() if not test) == max(0, total - end)  # nothing twice
    for name in ("subnets.csv", "front.csv", "best.csv", "export.csv", "search.log", "search.png"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_more_rounds_continue_a_search_and_other_settings_are_refused(tmp_path):
    long, short = tmp_path / "long", tmp_path / "short"
    finish(make_search(long), long)
    finish(make_search(short, rounds=1), short)
    finish(make_search(short, resume=True), short)
    assert (long / "subnets.csv").read_bytes() == (short / "subnets.csv").read_bytes()
    with pytest.raises(UserError, match=r"seed was 0 when .* is 5 now"):
        make_search(short, resume=True, seed=5)
    finish(make_search(tmp_path / "none", resume=True), tmp_path / "none")  # nothing there: it starts
    assert (tmp_path / "none" / "subnets.csv").read_bytes() == (long / "subnets.csv").read_bytes()
    (short / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json' is damaged"):
        make_search(short, resume=True)


def test_overwriting_keeps_the_earlier_search_until_nothing_is_refused(tmp_path):
    finish(make_search(tmp_path), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="no subnet"):
        finish(make_search(tmp_path, overwrite=True, limits=(LIMIT / 1e4,), delta=LIMIT / 1e5), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    finish(make_search(tmp_path, overwrite=True, rounds=1), tmp_path)
    assert len(read(tmp_path / "subnets.csv")) < before["subnets.csv"].count(b"\n") - 1


@pytest.mark.parametrize(("change", "why"), [
    ({"generations": 1}, "not iterable"), ({"generations": [[{}]]}, "'latency'"), ({"accuracies": {"x": [1]}}, "x"),
    ({"accuracies": []}, "'items'"), ({"tests": None}, "'items'"), ({"identity": None}, "damaged")])
def test_a_damaged_state_is_refused(tmp_path, change, why):
    finish(make_search(tmp_path, rounds=1), tmp_path)
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="is damaged") as refusal:
        make_search(tmp_path, resume=True)
    assert why in str(refusal.value)


class Scale:
    """A fitted platform: latency is a factor times the millions of multiply-accumulates (part 0) or parameters (1),
    its error a share of that; the largest resolution extrapolates."""

    def __init__(self, factor, share=0.0, part=1):
        self.factor, self.share, self.part = factor, share, part

    def predict_subnets(self, specs):
        ms = np.array([self.factor * count_net_flops_and_params(spec)[self.part] for spec in specs])
        return Prediction(ms, ms * self.share, np.array([spec.resolution == 64 for spec in specs]))


def test_several_devices_each_have_their_limit(tmp_path):
    devices = {"ruler": Scale(0.1, part=0), "weights": Scale(1.0)}
    drawn = [resolve(SPACE, SUBNETS.sample(np.random.default_rng(i)), 10) for i in range(100)]
    weights = float(np.median([count_net_flops_and_params(spec)[1] for spec in drawn]))
    search = make_search(tmp_path, platforms=devices, devices=2, limits=(LIMIT, weights, 1.3 * LIMIT, 1.3 * weights),
                         delta=LIMIT / 5)
    best = finish(search, tmp_path)
    assert [str(window) for window in best] == [f"{LIMIT:g}+{weights:g}", f"{1.3 * LIMIT:g}+{1.3 * weights:g}"]
    assert {r.proposal.limits for r in search.evaluated} == {window.limits for window in best}
    for result in search.evaluated:
        p = result.proposal
        true = [count_net_flops_and_params(resolve(SPACE, p.choice, 10))[i] * f for i, f in ((0, 0.1), (1, 1.0))]
        assert p.latency.ms == (pytest.approx(true[0]), pytest.approx(true[1]))
        assert all(ms <= limit for ms, limit in zip(true, p.limits, strict=True))
        assert any(ms >= limit - LIMIT / 5 for ms, limit in zip(true, p.limits, strict=True))
        assert p.latency.extrapolated == (p.choice.resolution == 64)
    rows = read(tmp_path / "subnets.csv")
    assert [(float(r["latency"]), float(r["latency_weights"])) for r in rows] == [
        pytest.approx(e.proposal.latency.ms, abs=1e-5) for e in search.evaluated]
    assert {r["limit"] for r in rows} == {str(window) for window in best}
    points = [(*e.proposal.latency.ms, -e.accuracy.top1) for e in search.evaluated]
    front = {p for p in points if not any(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in points)}
    assert {(r["latency"], r["latency_weights"]) for r in read(tmp_path / "front.csv")} == {
        (f"{p[0]:.5f}", f"{p[1]:.5f}") for p in front}
    again = make_search(tmp_path, platforms=devices, devices=2, delta=LIMIT / 5, resume=True,
                        limits=(LIMIT, weights, 1.3 * LIMIT, 1.3 * weights))
    assert [r.proposal for r in again.run()] == [r.proposal for r in search.evaluated]


def test_with_a_confidence_the_upper_end_keeps_the_limit(tmp_path):
    search = make_search(tmp_path, platforms={"fitted": Scale(0.1, 0.1, 0)}, confidence=0.9)
    assert list(search.run())
    for result in search.evaluated:
        ms = latency_of(result.proposal.choice)
        assert ms * (1 + 1.2815515655446004 * 0.1) <= LIMIT  # the normal law's 90% point
    search = make_search(tmp_path / "without", platforms={"fitted": Scale(0.1, 0.1, 0)})
    assert any(latency_of(r.proposal.choice) * 1.128 > LIMIT for r in search.run())
    with pytest.raises(UserError, match=r"--latency_confidence 0\.9.*ruler"):
        list(make_search(tmp_path / "unsure", confidence=0.9).run())


@pytest.mark.parametrize(("changes", "words"), [
    ({"devices": 2, "limits": (1.0, 2.0, 3.0)}, "3 limits for 2 platforms"),
    ({"devices": 2, "limits": (1.0, 2.0, 1.0, 2.0)}, "given twice"),
    ({"confidence": 0.3}, "at least 0.5, below 1"), ({"confidence": 1.0}, "at least 0.5, below 1")])
def test_limits_and_platforms_have_to_fit(changes, words):
    with pytest.raises(UserError, match=words):
        SearchSettings(**{"limits": (1.0,), **changes})


def test_tables_log_and_final_test(tmp_path):
    search = make_search(tmp_path, limits=(LIMIT, 1.2 * LIMIT))
    finish(search, tmp_path, top_num=4, tested=True, baseline="")
    rows = read(tmp_path / "subnets.csv")
    log = (tmp_path / "search.log").read_text()
    assert len(rows) == len(search.evaluated)
    for row in rows:
        choice, share, n = SubnetChoiceConfig.from_str(row["enc"]), float(row["acc1"]) / 100, int(row["images"])
        assert 100 * share == pytest.approx(Landscape.of(choice), abs=1e-3)
        for end in ("acc1_low", "acc1_high"):  # Wilson's: the shares that the observed one is z deviations away from
            p = float(row[end]) / 100
            assert abs(p - share) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / n), abs=2e-4)
        spec = count_net_flops_and_params(resolve(SPACE, choice, 10))
        line = (f"arch:{choice}-acc:{Landscape.of(choice):.2f}-latency:{latency_of(choice):.2f}-mflops:{spec[0]:.2f}"
                "-params:")
        assert re.search(re.escape(line) + r"\d+\.\d\d$", log, re.MULTILINE)
    best = read(tmp_path / "best.csv")
    assert [(row["limit"], row["rank"]) for row in best] == [
        (f"{limit:g}", str(rank)) for limit in (LIMIT, 1.2 * LIMIT) for rank in range(1, 5)]
    assert all(float(row["test_acc1"]) == float(row["acc1"]) for row in best)
    assert log.count("Test Acc1: ") == 8
    assert {n for (_, test), n in search.evaluate.calls.items() if test} == {1}
    listed = (tmp_path / "export.csv").read_text().splitlines()
    assert listed == list(dict.fromkeys(f"onnxw_tiny,053412-000000,{row['enc']}" for row in best if row["rank"] == "1"))
    assert (tmp_path / "search.png").read_bytes()[:4] == b"\x89PNG"


def test_the_baseline_is_drawn_and_must_be_one(tmp_path):
    finish(make_search(tmp_path / "r", method="random"), tmp_path / "r")
    points = read_points(tmp_path / "r" / "subnets.csv")
    assert points == [(float(row["latency"]), float(row["acc1"])) for row in read(tmp_path / "r" / "subnets.csv")]
    finish(make_search(tmp_path / "a"), tmp_path / "a")
    finish(make_search(tmp_path / "b"), tmp_path / "b", baseline=tmp_path / "r" / "subnets.csv")
    assert (tmp_path / "a" / "search.png").read_bytes() != (tmp_path / "b" / "search.png").read_bytes()
    (tmp_path / "scores.csv").write_text("latency,acc1\n0.5,151.6\n0.4,-3e5\n")
    assert read_points(tmp_path / "scores.csv", "NASWOT") == [(0.5, 151.6), (0.4, -3e5)]
    with pytest.raises(UserError, match=r"acc1 151\.6; expected ms above 0 and percent"):
        read_points(tmp_path / "scores.csv")
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("latency,acc1\n")
    for name, message in (("foreign", "foreign.csv.* has no column 'latency'"), ("empty", "no subnets"),
                          ("absent", "No such file")):
        with pytest.raises(UserError, match=message):
            read_points(tmp_path / f"{name}.csv")


def test_a_subnet_read_from_its_string_is_the_same_to_the_latency_cache():
    for choice in (SUBNETS.extreme(max), SUBNETS.sample(np.random.default_rng(1))):
        keys = [[block_key(block.args, (8, 8)) for _, block in resolve(SPACE, c, 10).blocks]
                for c in (choice, SubnetChoiceConfig.from_str(str(choice)))]
        assert keys[0] == keys[1]
    assert len(set(keys[0])) > 5
