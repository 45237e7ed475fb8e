"""The search of the space: the evolution loop, its moves, reading of tables, and the script as its user runs it."""
import csv
import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from processes import kill_when, run_script
from scipy.stats import kendalltau

from modules.block_kd.lut.other_stages import load_other_stages
from modules.block_kd.lut.rows import input_size
from modules.block_kd.lut.tables import load_tables
from modules.block_kd.score.quality import SpaceScore, Target
from modules.block_kd.score.sample import SampleEstimator
from modules.block_kd.space_search.figures import draw_distribution
from modules.block_kd.space_search.scorer import Scoring, make_scorer, score_choices
from modules.block_kd.space_search.search import Evolution, search_space
from modules.block_kd.space_search.spaces import Spaces
from modules.latency import platform as latency_platform
from modules.search.evolution import AgingEvolution, History
from modules.search.limits import SizeLimits
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import get_superspace
from modules.utils.csv_files import read_records
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

PUBLISHED = REPOSITORY.parent / "shared" / "published" / "block_lut"
needs_published = pytest.mark.skipif(not (PUBLISHED / "onnxw").is_dir(), reason=f"no published tables in {PUBLISHED}")
RESOLUTIONS = (32, 48, 64)


@pytest.fixture(scope="module")
def lut(tmp_path_factory):
    """Invented tables of onnxw_tiny, 30 rows each, with the other stages beside them."""
    folder, rng, space = tmp_path_factory.mktemp("lut"), np.random.default_rng(0), get_superspace("onnxw_tiny")
    target = folder / "onnxw_tiny"
    target.mkdir()
    for stage in space.searched:
        for b, candidate in enumerate(space.candidates):
            for w in range(stage.num_windows):
                lines = []
                for row in range(30):
                    blocks = [f"{rng.choice(candidate.kernels)}#{rng.choice(stage.window_widths(w))}#"
                              f"{candidate.expands[rng.integers(len(candidate.expands))]}"
                              for _ in range(rng.choice(stage.depths))]
                    size = input_size(space, stage, RESOLUTIONS[row % len(RESOLUTIONS)])
                    cin = rng.choice(space.previous(stage.name).widths)
                    loss, latency = rng.uniform(0.2, 0.6) + 0.03 * b, rng.gamma(2.0, 0.2) * (2 - 0.1 * b)
                    lines.append(f"{'_'.join(blocks)},1x{cin}x{size}x{size},{loss:.4f},1.0000,0.1000,{latency:.4f}\n")
                (target / f"{stage.name}_{b}_{w}.csv").write_text("".join(lines))
    others = {"onnx_lut": {"onnxw_tiny": {"source": "invented", "smallest": {"32": 0.3, "48": 0.4, "64": 0.5}}}}
    (target / "other_stages.json").write_text(json.dumps(others))
    (target / "lut.json").write_text(json.dumps({"settings": {"resolutions": RESOLUTIONS}}))
    return folder


def tiny(lut, **changes):
    return Scoring(**{"superspace": "onnxw_tiny", "platform": "onnx_lut", "lut_path": str(lut), "limits": (3.0,),
                      "resolutions": RESOLUTIONS, **changes})


# ---------------------------------------------------------------- evolution

def count_ones(seeds=(), draw=None, budget=300, population=20, parents=5, size=16, mutations=None, seed=0):
    """Evolve tuples of bits towards all ones; the history and how often each was scored."""
    calls = Counter()

    def evaluate(bits):
        calls[bits] += 1
        return sum(bits)

    def flip(bits, rng):
        i = rng.integers(size)
        return (*bits[:i], 1 - bits[i], *bits[i + 1:])

    history = History(evaluate, float)
    evolution = AgingEvolution(history, mutations or [flip, flip], population, parents, np.random.default_rng(seed))
    for _ in evolution.run(seeds, draw or (lambda rng: tuple(map(int, rng.integers(2, size=size)))), budget):
        assert len(evolution.population) <= population
    return history, calls


def test_evolution_improves_and_never_scores_twice():
    history, calls = count_ones(seeds=[(0,) * 16, (0,) * 16, (1, 0) * 8])
    assert len(history) == len(calls) == 300
    assert set(calls.values()) == {1}
    assert [e.individual for e in history.entries[:2]] == [(0,) * 16, (1, 0) * 8]
    assert history.top(1)[0].individual == (1,) * 16
    fitness = [e.fitness for e in history.top(40)]
    assert len(fitness) == 40
    assert fitness == sorted(fitness, reverse=True)
    assert len(history.top(1000)) == 300


def test_parents_are_alive_and_children_differ_in_one_bit():
    history, _ = count_ones(parents=20)
    position = {e.individual: i for i, e in enumerate(history.entries)}
    previous = None
    for i, entry in enumerate(history.entries[20:], start=20):
        assert sum(a != b for a, b in zip(entry.individual, entry.parent.individual, strict=True)) == 1
        assert position[entry.parent.individual] >= i - 21  # the second child of a cycle comes one later
        # All 20 alive are compared, so the parent is the best of them when its cycle starts.
        if entry.parent is not previous:
            assert entry.parent.fitness == max(e.fitness for e in history.entries[i - 20:i])
        previous = entry.parent


def test_the_budget_is_kept_exactly_and_an_exhausted_space_ends_the_search():
    for budget in (1, 7, 20, 21, 100):
        assert len(count_ones(seeds=[(0,) * 16, (1,) * 16], budget=budget)[0]) == budget
    assert len(count_ones(size=3, budget=50)[0]) == 8
    assert len(count_ones(budget=50, mutations=[lambda bits, rng: None])[0]) == 20


def test_same_seed_same_evolution():
    first, second, other = ([e.individual for e in count_ones(seed=s)[0].entries] for s in (4, 4, 5))
    assert first == second != other


# ---------------------------------------------------------------- moves

def test_published_numbers_of_seeds_and_spaces():
    assert len(set(Spaces("onnxw").seeds())) == 24
    assert len(set(Spaces("mobilew").seeds())) == 49
    assert len(Spaces("onnxw")) == pytest.approx(9.56e7, rel=1e-3)
    assert len(Spaces("mobilew")) == pytest.approx(1.19e9, rel=5e-3)
    assert [s.choice for s in Spaces("onnxw").seeds()][:4] == ["000000-000000", "000000-111111", "000000-122222",
                                                            "000000-133333"]


def test_mutations_change_one_stage_and_reach_every_value():
    rng, start, spaces = np.random.default_rng(0), SupernetConfig.from_choice("onnxw", "151122-023231"), Spaces("onnxw")
    blocks, windows = set(), set()
    for _ in range(3000):
        child = spaces.mutate_block(start, rng)
        assert child.windows == start.windows
        changed = [(i, b) for i, (b, old) in enumerate(zip(child.blocks, start.blocks, strict=True)) if b != old]
        assert len(changed) == 1
        blocks.update(changed)
        child = spaces.mutate_window(start, rng)
        assert child.blocks == start.blocks
        changed = [(i, w) for i, (w, old) in enumerate(zip(child.windows, start.windows, strict=True)) if w != old]
        assert len(changed) == 1
        windows.update(changed)
    assert len(blocks) == 6 * 5
    assert len(windows) == 1 + 5 * 3  # stage1 has two windows, the others four


def test_a_superspace_without_windows_has_no_window_mutation():
    rng, spaces = np.random.default_rng(0), Spaces("onnx")
    space = spaces.random(rng)
    assert spaces.mutate_window(space, rng) is None
    assert spaces.mutate_block(space, rng) != space


def test_spaces_keep_to_the_block_types():
    rng, spaces = np.random.default_rng(0), Spaces("cifarw_short", ("FusedMBConvRes", "ResNetBasic"))
    assert len(spaces) == (2 * 3) ** 3
    assert {s.blocks for s in spaces.seeds()} == {(5, 5, 5), (6, 6, 6)}
    drawn = {spaces.random(rng) for _ in range(500)}
    drawn |= {spaces.mutate_block(space, rng) for space in drawn}
    assert {s.blocks for s in drawn} == set(itertools.product((5, 6), repeat=3))
    one = Spaces("cifarw_short", ("ResNetBasic",))
    assert one.mutate_block(one.random(rng), rng) is None
    with pytest.raises(UserError, match="block type of cifarw_short 'Basic'; allowed: MobileNetV1Dual"):
        Spaces("cifarw_short", ("Basic",)).blocks  # noqa: B018


def test_random_spaces_are_uniform():
    rng = np.random.default_rng(0)
    spaces = [Spaces("onnxw").random(rng) for _ in range(6000)]
    for stage in range(6):
        counts = np.bincount([s.blocks[stage] for s in spaces], minlength=6)
        assert np.sum((counts - 1000) ** 2 / 1000) < 25  # chi-square, 5 degrees of freedom: p about 1e-4
    assert set(Counter(s.windows[0] for s in spaces)) == {0, 1}


# ---------------------------------------------------------------- tables

@needs_published
def test_published_tables_are_read_whole():
    config = SupernetConfig.from_choice("onnxw", "053333-000000")
    tables = load_tables(PUBLISHED, "onnxw", (224, 160, 192), [config])
    assert tables.resolutions == (160, 192, 224)
    assert [sum(len(rows.loss) for rows in stage) for stage in tables.of(config)] == [1000] * 6
    # First row of stage1_0_0.csv: 3#48#None_5#32#None,1x32x80x80,0.3918,19.5072,0.0130,0.9899
    rows = tables.stages[0][0, 0][0]
    (found,) = np.flatnonzero((rows.loss == 0.3918) & (rows.latency == 0.9899))
    assert (rows.input_width[found], rows.last_width[found]) == (32, 32)
    assert np.all(np.diff(rows.loss) >= 0)


def test_rows_belong_to_every_resolution_with_their_input_size(lut):
    # At stage6 of onnxw_tiny resolutions 48 and 64 both give 2 x 2.
    space = get_superspace("onnxw_tiny")
    assert [input_size(space, space.stage("stage6"), r) for r in RESOLUTIONS] == [1, 2, 2]
    tables = load_tables(lut, "onnxw_tiny", RESOLUTIONS)
    for stage, sizes in zip(tables.stages, [(10, 10, 10)] * 5 + [(10, 20, 20)], strict=True):
        assert {tuple(len(rows.loss) for rows in table) for table in stage.values()} == {sizes}


def test_latency_range_is_that_of_the_rows(lut):
    tables = load_tables(lut, "onnxw_tiny", RESOLUTIONS)
    others = load_other_stages("onnx_lut", "onnxw_tiny", RESOLUTIONS, lut_folder=lut)
    config = SupernetConfig.from_choice("onnxw_tiny", "012345-012111")
    low, high = tables.latency_range(config, others)
    _, latency, resolution = SampleEstimator(tables, others, Target(3.0)).draw(config)
    assert low <= latency[resolution == 32].min() < low + 0.3
    assert high - 2.0 < latency[resolution == 64].max() <= high + 1e-5  # the six slowest rows seldom meet


@pytest.mark.parametrize(("line", "message"), [
    ("3#32#None,1x16x4x4,0.5,1.0,0.1", "5 fields"),
    ("3#32#None,1x16x4x4,nan,1.0,0.1,0.5", "finite"),
    ("3#32#None,1x16x4x4,0.5,1.0,0.1,inf", "finite"),
    ("3#32#None,1x16x4x4,0.5,1.0,0.1,-0.5", "not negative"),
    ("3#32#None,1x16x4x4,oops,1.0,0.1,0.5", "oops"),
    ("3#32#None,1x16x4,0.5,1.0,0.1,0.5", "1x16x4"),
    ("3#32#None,1x16x4x8,0.5,1.0,0.1,0.5", "1x16x4x8"),
    ("3#32#None,1x17x4x4,0.5,1.0,0.1,0.5", "17"),
    ("3#33#None,1x16x4x4,0.5,1.0,0.1,0.5", "33"),
    ("3#32,1x16x4x4,0.5,1.0,0.1,0.5", "3#32"),
    ("9#32#None,1x16x4x4,0.5,1.0,0.1,0.5", "9"),
    ("3#32#None_3#32#None_3#32#None,1x16x4x4,0.5,1.0,0.1,0.5", "3 blocks"),
    ("3#32#None,1x16x5x5,0.5,1.0,0.1,0.5", "input size 5"),
    ("oops", "1 fields"),
])
def test_a_bad_row_is_named(lut, tmp_path, line, message):
    folder = tmp_path / "onnxw_tiny"
    folder.mkdir()
    config = SupernetConfig.from_choice("onnxw_tiny", "000000-000000")
    for stage in range(1, 7):
        name = f"stage{stage}_0_0.csv"
        (folder / name).write_text((lut / "onnxw_tiny" / name).read_text())
    tables = load_tables(tmp_path, "onnxw_tiny", RESOLUTIONS, [config]).of(config)
    counts = [sum(len(rows.loss) for rows in stage) for stage in tables]
    assert counts == [30] * 5 + [10 + 2 * 20]  # stage6 sees 2 pixels at 48 and at 64
    good = "3#32#None,1x24x8x8,0.5000,1.0000,0.1000,0.5000"
    (folder / "stage2_0_0.csv").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=r"stage2_0_0\.csv, line 2") as error:
        load_tables(tmp_path, "onnxw_tiny", RESOLUTIONS, [config])
    assert message in str(error.value)


@pytest.mark.parametrize("estimator", ["sample", "exact"])
def test_a_share_of_0_is_0(lut, estimator):
    """Nothing is within the limit in some spaces; transforms leave errors there, of either sign."""
    scorer = make_scorer(tiny(lut, limits=(3.0,), estimator=estimator))
    low = min(scorer.tables.latency_range(config, scorer.others)[0] for config in Spaces("onnxw_tiny").seeds())
    scorer, rng = make_scorer(tiny(lut, limits=(low * 1.001,), estimator=estimator)), np.random.default_rng(0)
    spaces = [Spaces("onnxw_tiny").random(rng) for _ in range(30)]
    beyond = [c for c in spaces if scorer.tables.latency_range(c, scorer.others)[0] > 1.2 * low]
    assert len(beyond) > 5
    assert [scorer(config).per_limit[0].feasible for config in beyond] == [0.0] * len(beyond)


def test_other_stages_of_a_profile_in_a_folder_are_predicted(lut, tmp_path):
    """The name of a platform may be a path, or that of a family."""
    profile = REPOSITORY / "data" / "latency" / "epyc_onnxruntime_int8"
    named, by_path = (load_other_stages(name, "onnxw", (160,), lut_folder=tmp_path)[0]
                      for name in ("epyc_onnxruntime_int8", str(profile)))
    assert named == pytest.approx(by_path)
    (tmp_path / "onnxw").mkdir()
    (tmp_path / "onnxw" / "other_stages.json").write_text(json.dumps({"dev": {"onnxw": 5}}))
    with pytest.raises(UserError, match=r"other_stages\.json.*onnxw"):
        load_other_stages("dev", "onnxw", (160,), lut_folder=tmp_path)


@pytest.mark.parametrize(("changes", "words"), [
    ({"superspace": "onnxz"}, ["onnxz", "onnxw"]), ({"superspace": "resnet20"}, ["resnet20 is a fixed", "onnxw_tiny"]),
    ({"platform": "pdp11"}, ["pdp11", "onnx_lut", "onnxruntime_int8"]),
    ({"estimator": "guess"}, ["guess", "sample, exact"]),
    ({"width_coupling": "loose"}, ["loose", "independent, chained"]),
    ({"other_stages": "sampled"}, ["sampled", "smallest", "onnx_lut"]),
    ({"other_stages": "largest"}, ["largest", "smallest, sampled"]),
    ({"stage_losses": "equal"}, ["equal", "published, relative"]),
    ({"limits": (3.0, 0.5)}, ["0.5", "fastest", "onnxw_tiny"]),
    ({"limits": (float("nan"),)}, ["nan", "latency_constraint"]),
    ({"limits": ()}, ["latency_constraint"]),
    ({"zero_shot_lut_path": "nowhere"}, ["nowhere", "no tables of onnxw_tiny", "--hw_list 32 48 64 --proxy Zen"]),
    ({"zero_shot_weight": 2}, ["zero_shot_weight 2", "--zero_shot_lut_path"]),
    ({"t": 0.0}, ["latency_loss_t", "0"]),
    ({"resolutions": (32, 48)}, ["input size 32", "32, 48", "hw_list"]),
    ({"resolutions": (32, 48, 64, 128)}, ["no row for resolution 128", "hw_list"]),
    ({"superspace": "onnx"}, ["missing", "python eval_block_kd.py --resume --superspace onnx --platform onnx_lut"]),
])
def test_bad_input_is_named(lut, changes, words):
    with pytest.raises(UserError) as error:
        make_scorer(tiny(lut, **changes))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("resolution", "mode", "word"), [(160, "sampled", "only smallest"), (176, "smallest", "176")])
def test_a_platform_without_the_figure_is_refused(resolution, mode, word):
    with pytest.raises(UserError, match=word) as error:
        load_other_stages("tflite27_cpu_int8", "mobilew", (resolution,), mode)
    assert "tflite27_cpu_int8" in str(error.value)


class BlockPrices:
    """A platform that records its calls; a block costs its output width / 1000 ms."""

    def __init__(self):
        self.asked = []

    def predict_block(self, args, hw):
        self.asked.append((args.kind, args.cin, args.cout, args.kernel, args.expand, args.stride, hw[0]))
        return args.cout / 1000


def test_a_registered_platform_prices_the_other_stages(monkeypatch):
    prices = BlockPrices()
    monkeypatch.setitem(latency_platform._platforms._values, "prices", lambda: prices)
    (smallest,) = load_other_stages("prices", "onnxw", (224,))
    assert prices.asked == [
        ("Conv", 3, 16, 3, None, 2, 224), ("ResNet", 16, 16, 3, 0.5, 1, 112), ("Conv", 304, 1280, 1, None, 1, 7),
        ("FeatureMix", 1280, 1920, 1, None, 1, 7), ("Logits", 1920, 1000, 1, None, 1, 1)]
    assert smallest == pytest.approx([0.016 + 0.016 + 1.28 + 1.92 + 1.0])

    (sampled,) = load_other_stages("prices", "onnxw", (160,), "sampled")
    # first_conv 16 or 32, then one or two blocks of 16 or 32
    assert {round(1000 * v) - 4200 for v in sampled} == {32, 48, 64, 80, 96}
    assert {cin for kind, cin, cout, *_ in prices.asked if cout == 1280} == set(range(304, 449, 16))


# ---------------------------------------------------------------- losses relative to their stage

RELATIVE = {"superspace": "cifarw_short", "platform": "onnx_lut", "limits": (1.55,), "resolutions": (24,)}


def write_short_tables(folder, scale=(0.1, 0.5, 3.0), divide=None):
    """Tables of cifarw_short, three rows each, with losses of about `scale` in its stages; `divide`: a divisor of the
    losses of each stage. Returns (loss, latency) of the rows by stage, block and window."""
    rng, space, found = np.random.default_rng(1), get_superspace("cifarw_short"), {}
    target = folder / space.name
    target.mkdir(parents=True)
    for stage, size, divisor in zip(space.searched, scale, divide or (1, 1, 1), strict=True):
        hw = input_size(space, stage, 24)
        for b, candidate in enumerate(space.candidates):
            for w in range(stage.num_windows):
                rows, lines = [], []
                for row in range(3):
                    loss, latency = size * rng.uniform(0.5, 2) / float(divisor), rng.choice([0.1, 0.4, 0.7])
                    cin = space.previous(stage.name).widths[row % len(space.previous(stage.name).widths)]
                    width = stage.window_widths(w)[row % 2]
                    lines.append(f"{candidate.kernels[0]}#{width}#{candidate.expands[0]},1x{cin}x{hw}x{hw},{loss!r},1,"
                                 f"0.1,{latency}\n")
                    rows.append((loss, latency))
                (target / f"{stage.name}_{b}_{w}.csv").write_text("".join(lines))
                found[stage.name, b, w] = rows
    others = {"source": "invented", "smallest": {"24": 0.2}, "sampled": {"24": [[0.2, 0.3]]}}
    (target / "other_stages.json").write_text(json.dumps({"onnx_lut": {space.name: others}}))
    return found


def stage_means(rows):
    return {name: np.mean([loss for (stage, *_), table in rows.items() if stage == name for loss, _ in table])
            for name, *_ in rows}


def test_relative_losses_of_the_best_subnets_by_hand(tmp_path):
    rows = write_short_tables(tmp_path)
    means, picks = stage_means(rows), set()
    for choice in ("012-012", "777-210", "630-111"):
        config = SupernetConfig.from_choice("cifarw_short", choice)
        tables = [(stage, rows[stage, b, w]) for stage, b, w in
                  zip(means, config.blocks, config.windows, strict=True)]
        within = [(sum(loss / means[stage] for (stage, _), (loss, _) in zip(tables, combination, strict=True)),
                   sum(loss for loss, _ in combination), combination)
                  for combination in itertools.product(*(table for _, table in tables))
                  if 0.2 + sum(latency for _, latency in combination) <= 1.55]  # no sum is near
        # 100,000 draws among 27 combinations: the 50 best are all the best combination within the limit.
        best, plain = min(within)[0] * 50 / (50 + 1e-5), min(loss for _, loss, _ in within)
        picks.add(min(within)[1] == plain)
        scoring = Scoring(lut_path=str(tmp_path), stage_losses="relative", **RELATIVE)
        score = make_scorer(scoring)(config).per_limit[0]
        assert score.top_loss == pytest.approx(best, rel=1e-5)
        assert score.feasible == pytest.approx(len(within) / 27, abs=0.01)
        assert make_scorer(replace(scoring, estimator="exact"))(config).top_loss == pytest.approx(best, rel=0.01)
        published = make_scorer(replace(scoring, stage_losses="published"))
        assert published(config).top_loss == pytest.approx(plain, rel=1e-4)
    assert picks == {True, False}  # another subnet is the best one then, in some of the spaces


@pytest.mark.parametrize("changes", [
    {"estimator": "exact"}, {"estimator": "exact", "width_coupling": "chained", "other_stages": "sampled"},
    {"width_coupling": "chained"}, {"other_stages": "sampled", "sizes": SizeLimits(mflops=4.0)}], ids=str)
def test_relative_scores_are_those_of_tables_with_divided_losses(tmp_path, changes):
    means = stage_means(write_short_tables(tmp_path / "plain"))
    write_short_tables(tmp_path / "divided", divide=list(means.values()))
    write_short_tables(tmp_path / "times_7", divide=(1, 1 / 7, 1))
    configs = [SupernetConfig.from_choice("cifarw_short", c) for c in ("012-012", "777-210", "630-111", "666-000")]

    def scores(folder, stage_losses, among=None):
        scorer = make_scorer(Scoring(lut_path=str(tmp_path / folder), stage_losses=stage_losses, **RELATIVE | changes),
                             among)
        return [scorer(config).score for config in configs]

    relative = scores("plain", "relative")
    assert relative == pytest.approx(scores("divided", "published"), rel=1e-5)
    assert relative == pytest.approx(scores("times_7", "relative"), rel=1e-5)
    assert relative == pytest.approx(scores("plain", "relative", configs), rel=0.02)  # the exact grid is another one
    assert max(relative) > 0.1
    assert scores("times_7", "published") != pytest.approx(scores("plain", "published"), rel=0.1)


def test_given_spaces_are_scored_with_relative_losses(tmp_path):
    write_short_tables(tmp_path / "lut")
    done = run_script("search_block_kd.py", "--superspace", "cifarw_short", "--platform", "onnx_lut", "--hw_list", "24",
                      "--latency_constraint", "1.55", "--lut_path", tmp_path / "lut", "--output_dir", tmp_path,
                      "--stage_losses", "relative", "--supernet_choices", "012-012", "777-210")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "cifarw_short" / "c1.55_t0.1_a0.01_relative"
    with open(folder / "scores.csv", newline="") as file:
        first, _ = csv.DictReader(file)
    assert (folder / "cdf" / "777-210.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "scores.csv.json").read_text())["stage_losses"] == "relative"
    relative = Scoring(lut_path=str(tmp_path / "lut"), stage_losses="relative", **RELATIVE)
    (alone,) = score_choices(relative, ["012-012"], tmp_path)  # the same score, whatever stands beside it
    assert float(first["score"]) == pytest.approx(alone.result.score, rel=1e-5)

    published = replace(relative, stage_losses="published")
    score = make_scorer(published)(SupernetConfig.from_choice("cifarw_short", "012-012")).score
    (tmp_path / "lut" / "cifarw_short" / "stage3_5_1.csv").unlink()
    with pytest.raises(UserError, match=r"missing block table .*stage3_5_1\.csv"):
        score_choices(relative, ["012-012"], tmp_path)
    (alone,) = score_choices(published, ["012-012"], tmp_path)
    assert alone.result.score == pytest.approx(score, rel=1e-5)


def test_a_search_with_published_losses_is_that_from_before_the_option(lut):
    scoring = tiny(lut)
    assert scoring.label == "c3_t0.1_a0.01"
    assert set(scoring.identity) == {"superspace", "platform", "lut_path", "limits", "t", "a", "estimator",
                                     "width_coupling", "other_stages", "resolutions", "seed"}
    relative = tiny(lut, stage_losses="relative")
    assert relative.identity == scoring.identity | {"stage_losses": "relative"}
    assert relative.label == "c3_t0.1_a0.01_relative"


# ---------------------------------------------------------------- losses of two kinds of tables

def zero_shot_tables(folder, seed=2):
    """Tables with the rows of `write_short_tables` in another order, and other losses and latencies. Returns the losses
    by stage, block and window, in the order of those."""
    source, rng, found = folder / "students" / "cifarw_short", np.random.default_rng(seed), {}
    target = folder / "zero_shot" / "cifarw_short"
    target.mkdir(parents=True)
    for path in sorted(source.glob("stage*.csv")):
        stage, b, w = path.stem.split("_")
        rows = [",".join(line.split(",")[:2]) for line in path.read_text().split()]
        losses = {row: float(rng.uniform(0.01, 0.99)) for row in rows}  # two of the three rows may be alike
        (target / path.name).write_text("".join(f"{row},{losses[row]!r},1,0.1,9\n" for row in reversed(rows)))
        found[stage, int(b), int(w)] = [losses[row] for row in rows]
    return found


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_losses_of_two_kinds_of_tables_by_hand(tmp_path, weight):
    rows = write_short_tables(tmp_path / "students")
    added = zero_shot_tables(tmp_path)
    means, zero_shot_means = stage_means(rows), {
        stage: np.mean([losses for (s, *_), losses in added.items() if s == stage]) for stage in stage_means(rows)}
    scoring = Scoring(lut_path=str(tmp_path / "students"), zero_shot_lut_path=str(tmp_path / "zero_shot"),
                      zero_shot_weight=weight, **RELATIVE)
    scorer = make_scorer(scoring)
    plain = make_scorer(Scoring(lut_path=str(tmp_path / "students"), stage_losses="relative", **RELATIVE))
    for choice in ("012-012", "777-210", "630-111"):
        config = SupernetConfig.from_choice("cifarw_short", choice)
        tables = [[(loss / means[stage] + weight * other / zero_shot_means[stage], latency)
                   for (loss, latency), other in zip(rows[stage, b, w], added[stage, b, w], strict=True)]
                  for stage, b, w in zip(means, config.blocks, config.windows, strict=True)]
        within = [sum(loss for loss, _ in combination) for combination in itertools.product(*tables)
                  if 0.2 + sum(latency for _, latency in combination) <= 1.55]
        score = scorer(config).per_limit[0]
        assert score.top_loss == pytest.approx(min(within) * 50 / (50 + 1e-5), rel=1e-5)
        assert score.feasible == pytest.approx(plain(config).per_limit[0].feasible, abs=0.01)  # latency: the students'
        assert score.feasible == pytest.approx(len(within) / 27, abs=0.01)


def test_a_search_with_two_kinds_of_tables_has_its_own_folder_and_state(lut, tmp_path):
    scoring = tiny(lut)
    both = tiny(lut, zero_shot_lut_path=str(tmp_path), zero_shot_weight=2)
    assert both.label == "c3_t0.1_a0.01_zero_shot2"
    assert both.identity == scoring.identity | {"zero_shot_lut_path": str(tmp_path), "zero_shot_weight": 2}

    write_short_tables(tmp_path / "students")
    zero_shot_tables(tmp_path)
    options = ["--superspace", "cifarw_short", "--platform", "onnx_lut", "--hw_list", "24", "--latency_constraint",
               "1.55", "--lut_path", str(tmp_path / "students"), "--output_dir", str(tmp_path / "out"), "--cycles",
               "60", "--population_size", "20", "--parent_size", "5"]

    def search(*more):
        return run_script("search_block_kd.py", *options, *more)

    found = search("--zero_shot_lut_path", str(tmp_path / "zero_shot"))
    assert found.returncode == 0, found.stderr
    folder = tmp_path / "out" / "cifarw_short" / "c1.55_t0.1_a0.01_zero_shot1"
    top = (folder / "top50.csv").read_text()
    (tmp_path / "zero_shot").rename(tmp_path / "moved")  # the place does not matter, the losses do
    again = search("--zero_shot_lut_path", str(tmp_path / "moved"), "--resume")
    assert again.returncode == 0, again.stderr
    assert (folder / "top50.csv").read_text() == top
    table = next((tmp_path / "moved" / "cifarw_short").glob("stage1_0_0.csv"))
    table.write_text(table.read_text().replace("0.1,9", "0.1,8").replace(",0.", ",0.0"))
    changed = search("--zero_shot_lut_path", str(tmp_path / "moved"), "--resume")
    assert changed.returncode == 2
    assert "lut_path" in changed.stderr


def test_both_kinds_of_tables_together_rank_trained_spaces_better():
    figures = REPOSITORY / "benchmarks" / "figures" / "qt_ranking.csv"
    rows = [row for _, row in read_records(figures, "table", ("space", "best"))]
    tables = str(REPOSITORY / "data" / "block_lut")

    def tau(**settings):
        scorer = make_scorer(Scoring("cifarw_short", "onnxruntime_int8", tables, (0.33,), t=0.08, estimator="exact",
                                     resolutions=(24,), **settings))
        scores = [scorer(SupernetConfig.from_choice("cifarw_short", row["space"])).score for row in rows]
        return kendalltau(scores, [float(row["best"]) for row in rows]).statistic

    assert tau(zero_shot_lut_path=str(REPOSITORY / "data" / "zen_lut")) > tau(stage_losses="relative") + 0.15
    assert tau(zero_shot_lut_path=str(REPOSITORY / "data" / "zen_lut")) > 0.6


def test_tables_of_two_kinds_must_fit(tmp_path):
    write_short_tables(tmp_path / "students")
    zero_shot_tables(tmp_path)
    scoring = Scoring(lut_path=str(tmp_path / "students"), zero_shot_lut_path=str(tmp_path / "zero_shot"), **RELATIVE)
    share = make_scorer(scoring)(SupernetConfig.from_choice("cifarw_short", "012-012")).per_limit[0].feasible
    assert 0 < share < 1
    table = tmp_path / "zero_shot" / "cifarw_short" / "stage3_5_1.csv"
    text = table.read_text()
    table.write_text(text.split()[0] + "\n")
    with pytest.raises(UserError, match=r"stage3_5_1\.csv: blocks .* --manual_seed.*--num_samples_per_stage"):
        make_scorer(scoring)
    table.write_text(text)
    (table.parent / "lut.json").write_text(json.dumps({"settings": {"loss_fn": "nsr", "platform": "onnx_lut"}}))
    with pytest.raises(UserError, match=r"zero_shot_lut_path .*not a training-free score.*--proxy Zen"):
        make_scorer(scoring)


def test_losses_that_are_all_0_have_no_relative_ones(tmp_path):
    rows = write_short_tables(tmp_path, scale=(0.1, 0.0, 3.0))
    tables = [rows["stage1", 0, 0], rows["stage3", 1, 1], rows["stage5", 2, 2]]
    best = min(sum(loss for loss, _ in combination) for combination in itertools.product(*tables)
               if 0.2 + sum(latency for _, latency in combination) <= 1.55)
    scorer = make_scorer(Scoring(lut_path=str(tmp_path), **RELATIVE))
    assert scorer(SupernetConfig.from_choice("cifarw_short", "012-012")).top_loss == pytest.approx(best, rel=1e-4)
    with pytest.raises(UserError, match=r"all losses of stage3 in .*cifarw_short are 0 .*--stage_losses published"):
        make_scorer(Scoring(lut_path=str(tmp_path), stage_losses="relative", **RELATIVE))


# ---------------------------------------------------------------- the script

def command(lut, output, *more):
    return ["search_block_kd.py", "--superspace", "onnxw_tiny", "--platform", "onnx_lut", "--latency_constraint", "3.5",
            "--lut_path", str(lut), "--output_dir", str(output), *map(str, more)]


def run(*arguments):
    return run_script(*command(*arguments))


def read(folder, name):
    return (folder / "onnxw_tiny" / "c3.5_t0.1_a0.01" / name).read_bytes()


SMALL = ("--population_size", 60, "--parent_size", 15, "--cycles", 150)


@pytest.mark.parametrize("estimator", ["sample", "exact"])
def test_a_search_writes_its_files(lut, tmp_path, estimator):
    done = run(lut, tmp_path, "--estimator", estimator, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where there is no terminal
    with open(tmp_path / "onnxw_tiny" / "c3.5_t0.1_a0.01" / "spaces.csv", newline="") as file:
        spaces = list(csv.DictReader(file))
    assert len({s["choice"] for s in spaces}) == len(spaces) == 150
    best = max(spaces, key=lambda s: float(s["score"]))
    again = make_scorer(tiny(lut, limits=(3.5,), estimator=estimator))(
        SupernetConfig.from_choice("onnxw_tiny", best["choice"]))
    assert again.score == pytest.approx(float(best["score"]), rel=1e-5)

    log = read(tmp_path, "output.log").decode().splitlines()
    line = (f"arch:{best['choice'].replace('-', '_')}-score:{again.score:.4f}-lat_loss:{again.latency_loss:.2f}"
            f"-top_loss:{again.top_loss:.4f}")
    assert log[:2] == ["Generating population", "Initial population:"]
    assert all(entry.startswith("arch:") for entry in log[2:62])
    assert log[62] == "Start Evolution Search"
    assert [entry[:9] for entry in log[63:153]] == [f"Iter {i:4d}" for i in range(1, 91)]
    assert all(entry.count("arch:") == 2 for entry in log[63:153])
    assert log[153] == "TOP individual:"
    assert log[154].startswith(f"{line} min_ms ")
    assert sum(" max_ms " in entry for entry in log[154:]) == 50
    assert log[-1].endswith(f"train_supernet.py --superspace onnxw_tiny --supernet_choice {best['choice']} "
                            "--config-file supernet_training_configs/RECIPE.yaml --dataset_path IMAGES")
    for name in (f"{best['choice']}_distribution.png", "search_progress.png"):
        assert read(tmp_path, name).startswith(b"\x89PNG")

    refused = run(lut, tmp_path, "--estimator", estimator, *SMALL)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr


def test_a_space_for_weights_of_7_bits_is_trained_so(lut, tmp_path):
    tables = shutil.copytree(lut, tmp_path / "tables")
    others = json.loads((tables / "onnxw_tiny" / "other_stages.json").read_text())
    (tables / "onnxw_tiny" / "other_stages.json").write_text(json.dumps({"onnxruntime_w7a8": others["onnx_lut"]}))
    done = run(tables, tmp_path, "--platform", "onnxruntime_w7a8", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("--dataset_path IMAGES --quant_weight_bits 7")


@pytest.mark.parametrize("estimator", ["sample", pytest.param("exact", marks=pytest.mark.slow)])
def test_a_killed_search_resumes_to_the_same_files(lut, tmp_path, estimator):
    arguments = ("--estimator", estimator, "--cycles", 1200, "--population_size", 100, "--parent_size", 25, "--seed", 3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(lut, whole, *arguments).returncode == 0
    process = subprocess.Popen([sys.executable, *command(lut, killed, *arguments)], cwd=REPOSITORY,
                               stdout=subprocess.DEVNULL)
    state = killed / "onnxw_tiny" / "c3.5_t0.1_a0.01" / "state.json"
    kill_when(process, state.exists)
    assert not (state.parent / "spaces.csv").exists()
    assert 250 <= len(json.loads(state.read_text())["entries"]) < 1200

    other = run(lut, killed, *arguments[:-1], 4, "--resume")
    assert other.returncode == 2
    assert "seed was 3" in other.stderr
    assert run(lut, killed, *arguments, "--resume").returncode == 0
    for name in ("spaces.csv", "top50.csv", "output.log", "state.json"):
        assert read(killed, name) == read(whole, name)


@pytest.mark.parametrize(("change", "why"), [
    ({"entries": None}, "not iterable"), ({"entries": [["000000-000000", 5, [[1, 1, 1, 1]]]]}, "has the parent 5"),
    ({"entries": [["99", None, []]]}, "'99'"), ({"entries": [["000000-000000", None, [["x", 1, 1, 1]]]]}, "convert"),
    ({"rng": {"bit_generator": "PCG64"}}, "'state'"), ({"identity": {}}, "has no 'superspace'")])
def test_a_damaged_state_is_refused_and_stays(lut, tmp_path, change, why):
    scoring, sizes = tiny(lut, limits=(3.5,), estimator="exact"), Evolution(20, 5, 30)
    search_space(scoring, sizes, tmp_path)
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"state\.json' is damaged") as refusal:
        search_space(scoring, sizes, tmp_path, resume=True)
    assert why in str(refusal.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_search_among_some_block_types_needs_their_tables_only(lut, tmp_path):
    folder = tmp_path / "lut" / "onnxw_tiny"
    folder.mkdir(parents=True)
    for file in (lut / "onnxw_tiny").iterdir():
        if file.suffix != ".csv" or file.stem.split("_")[1] in "15":
            shutil.copy(file, folder)
    types = [get_superspace("onnxw_tiny").candidates[block].block for block in (1, 5)]
    done = run(folder.parent, tmp_path, "--block_types", *types, *SMALL)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "onnxw_tiny" / "c3.5_t0.1_a0.01" / "spaces.csv", newline="") as file:
        choices = [row["choice"].split("-")[0] for row in csv.DictReader(file)]
    assert set("".join(choices)) == {"1", "5"}
    assert len(set(choices)) > 2
    assert "stage1_0_0.csv" in run(folder.parent, tmp_path / "all", *SMALL).stderr


def test_given_spaces_are_scored(lut, tmp_path):
    done = run(lut, tmp_path, "--latency_constraint", 3.5, 1.4, "--supernet_choices", "012345-011211",
               "000000_000000", "555555")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "onnxw_tiny" / "c3.5+1.4_t0.1_a0.01"
    with open(folder / "scores.csv", newline="") as file:
        scores = list(csv.DictReader(file))
    assert [s["choice"] for s in scores] == ["012345-011211", "000000-000000", "555555-000000"]
    for s in scores:
        assert float(s["score"]) == pytest.approx(float(s["score_3.5"]) + float(s["score_1.4"]), rel=1e-4)
        assert float(s["feasible_3.5"]) > float(s["feasible_1.4"])
        assert (folder / "cdf" / f"{s['choice']}.png").read_bytes().startswith(b"\x89PNG")
    hopeless = [s["choice"] for s in scores if float(s["feasible_1.4"]) == 0]
    assert [line.split()[4] for line in done.stderr.splitlines()] == [f"onnxw_tiny-{choice}" for choice in hopeless]


def test_a_limit_that_no_subnet_keeps_has_no_best_space(lut, tmp_path):
    """The sum of the fastest rows keeps it, but no subnet that is drawn does; the tables are there to look at."""
    done = run(lut, tmp_path, "--latency_constraint", 0.8, *SMALL)
    assert done.returncode == 2
    assert "no subnet of any of the 150 scored spaces was found within 0.8 ms" in done.stderr
    assert "next:" not in done.stdout
    (folder,) = (tmp_path / "onnxw_tiny").iterdir()
    with open(folder / "spaces.csv", newline="") as file:
        assert {float(row["feasible_0.8"]) for row in csv.DictReader(file)} == {0}


def test_relative_losses_are_of_the_block_types_asked_for(lut):
    space = get_superspace("onnxw_tiny")
    scoring = tiny(lut, stage_losses="relative", block_types=(space.candidates[3].block,))
    with pytest.raises(UserError, match="000000-000000 has block types other than --block_types ResNet"):
        make_scorer(scoring, [SupernetConfig.from_choice("onnxw_tiny", "000000-000000")])


def test_options_of_a_search_are_told_to_have_no_effect_on_given_spaces(lut, tmp_path):
    done = run(lut, tmp_path, "--supernet_choices", "555555", "--resume", "--cycles", 7)
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("note:")]
    assert [line.split()[1] for line in notes] == ["--cycles", "--resume"]


def test_a_space_of_which_no_subnet_is_within_has_no_figure(tmp_path):
    draw_distribution(tmp_path / "space.png", "space", (np.zeros(0),) * 3, (), SpaceScore(()))
    assert not any(tmp_path.iterdir())


def test_bad_input_ends_with_one_line_and_status_2(lut, tmp_path):
    for more, words in ((("--latency_constraint", 0.1), "0.1: below every subnet"),
                        (("--supernet_choices", "99"), "'99'"), (("--resume", "--overwrite"), "give one"),
                        (("--parent_size", 0), "--parent_size 0"), (("--population_size", 5), "population size 5")):
        done = run(lut, tmp_path, *more)
        assert done.returncode == 2
        assert done.stderr.startswith("search_block_kd.py: error: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@needs_published
@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["sample", "exact"])
def test_the_best_space_is_as_good_as_the_published_programs(tmp_path, estimator):
    scoring = Scoring("onnxw", "onnx_lut", str(PUBLISHED), (10.0,), 0.08, 0.01)
    scorer = make_scorer(scoring)
    for seed in range(3):
        done = run_script("search_block_kd.py", "--superspace", "onnxw", "--platform", "onnx_lut",
                          "--latency_constraint", "10", "--latency_loss_t", "0.08", "--lut_path", PUBLISHED,
                          "--output_dir", tmp_path / str(seed), "--estimator", estimator, "--seed", seed)
        assert done.returncode == 0, done.stderr
        best = SupernetConfig.from_str(done.stdout.split()[2].rstrip(":"))
        scores = [SampleEstimator(scorer.tables, scorer.others, Target(10, 0.08, 0.01), seed=(99, s))(best).score
                  for s in range(20)]
        assert np.mean(scores) >= 0.3835, (seed, best)
