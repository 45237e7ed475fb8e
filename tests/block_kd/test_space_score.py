"""The Q-T score: both estimators against full enumeration, closed forms, a plain formulation and published scores."""
import itertools
import math

import numpy as np
import pytest

from modules.block_kd.lut.other_stages import load_other_stages
from modules.block_kd.lut.tables import BlockTables, Rows, load_tables
from modules.block_kd.score.exact import ExactEstimator
from modules.block_kd.score.order_statistics import expected_quality
from modules.block_kd.score.quality import NO_SUBNET_LOSS, Target
from modules.block_kd.score.sample import SampleEstimator
from modules.block_kd.space_search.spaces import Spaces
from modules.search_space import superspace
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import StageTable, Superspace
from modules.search_space.tables import ONNXW_TINY
from modules.utils.files import REPOSITORY

PUBLISHED = REPOSITORY.parent / "shared" / "published" / "block_lut"
needs_published = pytest.mark.skipif(not (PUBLISHED / "onnxw").is_dir(), reason=f"no published tables in {PUBLISHED}")
LIMIT = Target(5.95, t=0.3, a=0.05)  # a strong latency loss, so that an error of the share shows


# ---------------------------------------------------------------- three small tables, fully enumerated

@pytest.fixture
def three_stages(monkeypatch):
    """A superspace of three searched stages with one table each, 12 rows per resolution, two resolutions."""
    stages = tuple(StageTable(f"stage{i}", (8, 16, 24), (1,), 2) for i in (1, 2, 3))
    space = Superspace("three", (*ONNXW_TINY.stages[:2], *stages, *ONNXW_TINY.stages[-3:]), ONNXW_TINY.fixed,
                       ONNXW_TINY.candidates[:1])
    monkeypatch.setitem(superspace._superspaces._values, "three", space)
    rng = np.random.default_rng(3)

    def rows(slow):
        # Widths 8 and 16 go in, 8, 16 and 24 come out: a chain that reaches 24 finds no row.
        return Rows(np.sort(rng.uniform(0.2, 0.6, 12)), slow * rng.gamma(2.0, 1.0, 12) + 0.2,
                    rng.choice([8, 16], 12), rng.choice([8, 16, 16, 24], 12))

    tables = BlockTables("three", (160, 224), tuple({(0, 0): (rows(1.0), rows(1.6))} for _ in stages))
    return tables, SupernetConfig("three", (0, 0, 0), (0, 0, 0))


def enumerate_atoms(tables, others, coupling):
    """Per resolution: loss, latency and chance of every combination; chances add up to the share that is drawn."""
    for r, other in enumerate(others):
        stages = [stage[0, 0][r] for stage in tables.stages]
        atoms = []
        for picks in itertools.product(*(range(len(s.loss)) for s in stages)):
            chance, width = 1.0, None
            for s, i in zip(stages, picks, strict=True):
                free = coupling == "independent" or width is None
                chance *= (free or s.input_width[i] == width) / (len(s.loss) if free
                                                                 else max(1, (s.input_width == width).sum()))
                width = s.last_width[i]
            loss, latency = (sum(getattr(s, f)[i] for s, i in zip(stages, picks, strict=True))
                             for f in ("loss", "latency"))
            atoms += [(loss, latency + o, chance / len(other)) for o in other if chance]
        yield np.array(atoms).T


def published_scores(atoms, target, repeats, rng):
    """The published estimate, `repeats` times: counts of every combination are multinomial."""
    scores = []
    for _ in range(repeats):
        counted, drawn = [], 0
        for chunks, (loss, latency, chance) in zip(rng.multinomial(200, [1 / len(atoms)] * len(atoms)), atoms,
                                                   strict=True):
            counts = rng.multinomial(500 * chunks, [*chance, max(0.0, 1 - chance.sum())])[:-1]
            drawn += counts.sum()
            counted += [(x, n) for x, n in zip(loss[latency <= target.limit], counts[latency <= target.limit],
                                               strict=True) if n]
        share = sum(n for _, n in counted) / drawn + 1e-5
        top = [x for x, n in sorted(counted) for _ in range(min(n, 50))][:50]
        scores.append(1 / (max(1, (target.t / share) ** target.a) * sum(top) / (len(top) + 1e-5)))
    return np.mean(scores), np.std(scores) / math.sqrt(repeats)


@pytest.mark.parametrize("coupling", ["independent", "chained"])
@pytest.mark.parametrize("others", [([1.0], [1.5]), ([1.0, 1.7, 2.2], [1.5, 2.4, 3.0])], ids=["smallest", "sampled"])
def test_both_estimators_match_full_enumeration(three_stages, coupling, others):
    tables, config = three_stages
    others = tuple(np.array(o) for o in others)
    atoms = list(enumerate_atoms(tables, others, coupling))
    within, drawn = (sum(chance[latency <= end].sum() for _, latency, chance in atoms)
                     for end in (LIMIT.limit, np.inf))
    assert 0.02 < within / drawn < 0.5
    assert (drawn < 1.9) == (coupling == "chained")  # chains that end without a row are there to be handled
    reference, error = published_scores(atoms, LIMIT, 120, np.random.default_rng(0))

    fine = ExactEstimator(tables, others, LIMIT, coupling, refine=4)(config)
    assert fine.feasible == pytest.approx(within / drawn, rel=0.02)
    assert fine.score == pytest.approx(reference, abs=4 * error + 2e-3)
    coarse = ExactEstimator(tables, others, LIMIT, coupling)
    low, high = coarse.bounds(config)
    assert low < reference < high
    assert low < coarse(config).score < high
    assert high - low < 0.05 * reference

    samples = [SampleEstimator(tables, others, LIMIT, coupling, seed=s)(config) for s in range(20)]
    scores = [q.score for q in samples]
    assert np.mean(scores) == pytest.approx(reference, abs=4 * (error + np.std(scores) / math.sqrt(20)))
    shares = [q.feasible for q in samples]
    assert np.mean(shares) == pytest.approx(within / drawn, abs=4 * np.std(shares) / math.sqrt(20))


@pytest.mark.parametrize("coupling", ["independent", "chained"])
def test_rounding_up_and_down_encloses_the_share(three_stages, coupling):
    tables, config = three_stages
    others = (np.array([1.0]), np.array([1.5]))
    atoms = list(enumerate_atoms(tables, others, coupling))
    drawn = sum(chance.sum() for *_, chance in atoms)
    for limit in (2.5, 4.0, 6.0, 12.0, 40.0):
        true = sum(chance[latency <= limit].sum() for _, latency, chance in atoms) / drawn
        slow, fast = (ExactEstimator(tables, others, Target(limit), coupling, rounding)(config).feasible
                      for rounding in ("up", "down"))
        assert slow - 1e-12 <= true <= fast + 1e-12
        # A sum of three is off by less than three steps of (limit - other stages) / 127.
        moved = 3 * (limit - 1.0) / 127
        least, most = (sum(chance[latency <= limit + d].sum() for _, latency, chance in atoms) / drawn
                       for d in (-moved, moved))
        assert least - 1e-12 <= slow
        assert fast <= most + 1e-12


def test_no_feasible_subnet_costs_the_published_penalty(three_stages):
    tables, config = three_stages
    others = (np.array([1.0]), np.array([1.5]))
    for estimator in (SampleEstimator, ExactEstimator):
        quality = estimator(tables, others, Target(1.2, t=0.1, a=0.01))(config)
        assert quality.feasible == 0
        assert quality.top_loss == pytest.approx(1e5)
        assert quality.score == pytest.approx(1 / (1e5 * (0.1 / 1e-5) ** 0.01))


# ---------------------------------------------------------------- closed forms and the plain formulation

def test_expected_mean_of_smallest_uniform_losses():
    # A grid point stands for the losses around it, so the first lies half a step above 0.
    # The j-th smallest of n uniform numbers is j / (n + 1) on average; 1 to 50 give 25.5 / (n + 1).
    steps, draws = 200_000, 100_000
    cdf = np.arange(1, steps + 1) / steps
    quality = expected_quality(cdf, 1 / steps, 0.5 / steps, draws, Target(1.0))
    assert quality.top_loss == pytest.approx(25.5 / draws, rel=5e-3)
    shifted = expected_quality(cdf, 1 / steps, 2 + 0.5 / steps, draws, Target(1.0))
    assert shifted.top_loss == pytest.approx(2 + 25.5 / draws, rel=1e-6)


@pytest.mark.parametrize("expected", [0.2, 5.0, 80.0])
def test_expected_score_with_few_feasible_subnets(expected):
    # Losses uniform on [1, 2]; n of them are feasible, n Poisson: the mean of the k smallest is 1 + (k + 1)/(2(n + 1)).
    steps, draws, target = 4000, 100_000, Target(1.0, t=0.1, a=0.2)
    cdf = expected / draws * np.arange(1, steps + 1) / steps
    score, chance = 0.0, math.exp(-expected)
    for n in range(200):
        k = min(n, 50)
        top = 1e5 if n == 0 else k * (1 + (k + 1) / (2 * (n + 1))) / (k + 1e-5)
        score += chance / (max(1, (0.1 / (n / draws + 1e-5)) ** 0.2) * top)
        chance *= expected / (n + 1)
    assert expected_quality(cdf, 1 / steps, 1.0, draws, target).score == pytest.approx(score, rel=1e-3)


def test_few_and_many_feasible_subnets_join_smoothly():
    cdf = np.linspace(0, 1, 3000) ** 3
    below, above = (expected_quality(cdf * n / 100_000, 1e-3, 1.0, 100_000, Target(1.0)) for n in (99.99, 100.01))
    assert below.score == pytest.approx(above.score, rel=5e-4)
    assert below.top_loss == pytest.approx(above.top_loss, rel=5e-4)


def test_sample_estimate_equals_a_plain_loop_over_its_draws(three_stages):
    tables, config = three_stages
    estimator = SampleEstimator(tables, (np.array([1.0]), np.array([1.5])), LIMIT, seed=5)
    loss, latency, _ = estimator.draw(config)
    feasible = sorted(float(x) for x, ms in zip(loss, latency, strict=True) if ms <= LIMIT.limit)
    top = sum(feasible[:50]) / (50 + 1e-5)
    share = len(feasible) / 100_000
    quality = estimator(config)
    assert quality.feasible == share
    assert quality.top_loss == pytest.approx(top, rel=1e-6)
    assert quality.score == pytest.approx(1 / ((0.3 / (share + 1e-5)) ** 0.05 * top), rel=1e-6)


def test_a_chunk_has_one_resolution_and_rows_are_drawn_evenly(three_stages):
    tables, config = three_stages
    _, latency, resolution = SampleEstimator(tables, (np.zeros(1), np.zeros(1)), LIMIT, seed=1).draw(config)
    assert all(len(set(chunk)) == 1 for chunk in resolution.reshape(200, 500))
    assert 70 < np.sum(resolution[::500] == 160) < 130
    for r, value in enumerate((160, 224)):
        expected = sum(stage[0, 0][r].latency.mean() for stage in tables.stages)
        assert latency[resolution == value].mean() == pytest.approx(expected, rel=0.02)


# ---------------------------------------------------------------- published tables and scores

def published_setup(choices, mode="smallest"):
    configs = [SupernetConfig.from_choice("onnxw", choice) for choice in choices]
    tables = load_tables(PUBLISHED, "onnxw", (160, 192, 224), configs)
    return configs, tables, load_other_stages("onnx_lut", "onnxw", tables.resolutions, mode)


@needs_published
@pytest.mark.parametrize(("choice", "limit", "score", "latency_loss", "top_loss"), [
    ("151122_023231", 10, 0.3779, 1.044, 2.534),
    ("151122_023231", 15, 0.4252, 1.000, 2.354),
    ("121122_133333", 15, 0.4238, 1.019, 2.315),
    ("131121_023233", 10, 0.3840, None, None),
    ("131121_022221", 10, 0.3828, None, None),
    ("131121_022130", 10, 0.3844, None, None),
    ("131121_022131", 10, 0.3836, None, None),
])
def test_published_scores(choice, limit, score, latency_loss, top_loss):
    (config,), tables, others = published_setup([choice])
    target = Target(limit, t=0.08, a=0.01)
    samples = [SampleEstimator(tables, others, target, seed=s)(config) for s in range(20)]
    exact = ExactEstimator(tables, others, target)(config)
    spread = np.std([q.score for q in samples], ddof=1)
    tolerance = 3 * spread * math.sqrt(2 / 20) + 5e-5  # two means of 20, the published one with four digits
    assert np.mean([q.score for q in samples]) == pytest.approx(score, abs=tolerance)
    assert exact.score == pytest.approx(score, abs=tolerance)
    if top_loss:
        assert exact.latency_loss == pytest.approx(latency_loss, abs=2e-3)
        assert exact.top_loss == pytest.approx(top_loss, abs=5e-3)


@needs_published
@pytest.mark.parametrize(("choice", "score"), [("151122_023231", 0.4370), ("121122_133333", 0.4525)])
def test_published_scores_at_20_ms(choice, score):
    # Published without a spread: within two standard deviations of a single evaluation.
    (config,), tables, others = published_setup([choice])
    target = Target(20, t=0.08, a=0.01)
    samples = [SampleEstimator(tables, others, target, seed=s)(config).score for s in range(20)]
    assert np.mean(samples) == pytest.approx(score, abs=2 * np.std(samples, ddof=1))
    assert ExactEstimator(tables, others, target)(config).score == pytest.approx(score, abs=2 * np.std(samples, ddof=1))


@needs_published
def test_published_space_that_hardly_ever_meets_the_limit():
    # Published: .074 +- .148 over 20 evaluations, mostly 0, sometimes .37.
    (config,), tables, others = published_setup(["121122_133333"])
    target = Target(10, t=0.08, a=0.01)
    scores = [SampleEstimator(tables, others, target, seed=s)(config).score for s in range(20)]
    assert all(s < 1e-4 or 0.3 < s < 0.4 for s in scores)
    assert ExactEstimator(tables, others, target)(config).score == pytest.approx(0.074, abs=3 * 0.148 / math.sqrt(20))


@needs_published
def test_exact_is_the_mean_of_samples_for_thirty_spaces():
    rng, target = np.random.default_rng(11), Target(15, t=0.08, a=0.01)
    tables = load_tables(PUBLISHED, "onnxw", (160, 192, 224))
    others = load_other_stages("onnx_lut", "onnxw", tables.resolutions)
    exact, z = ExactEstimator(tables, others, target), []
    while len(z) < 30:
        config = Spaces("onnxw").random(rng)
        quality = exact(config)
        if quality.feasible < 1e-4:  # the score is then a coin flip, and 20 samples do not show its spread
            continue
        scores = [SampleEstimator(tables, others, target, seed=(len(z), s))(config).score for s in range(20)]
        spread = np.std(scores, ddof=1)
        assert abs(quality.score - np.mean(scores)) <= 2 * spread
        z.append((quality.score - np.mean(scores)) / (spread / math.sqrt(20)))
    # In units of the standard error of the mean: t-distributed with 19 degrees of freedom, mean square 1.12.
    assert np.mean(np.square(z)) < 2
    assert abs(np.mean(z)) < 3.5 / math.sqrt(30)


@needs_published
def test_scores_under_two_limits_on_the_mobile_tables_add_up():
    # Only window 0 of mobilew is there; no score is published for it, so the estimators are held against each other.
    from modules.block_kd.space_search.scorer import Scoring, make_scorer

    config = SupernetConfig.from_choice("mobilew", "122222-000000")
    scores = {}
    for estimator in ("sample", "exact"):
        scoring = Scoring("mobilew", "tflite27_cpu_int8", str(PUBLISHED), (15.0, 20.0), 0.08, 0.01, estimator)
        scores[estimator] = make_scorer(scoring, [config])(config)
        assert scores[estimator].score == sum(q.score for q in scores[estimator].per_limit)
        alone = Scoring("mobilew", "tflite27_cpu_int8", str(PUBLISHED), (15.0,), 0.08, 0.01, estimator)
        assert make_scorer(alone, [config])(config).score == scores[estimator].per_limit[0].score
    assert scores["sample"].score == pytest.approx(scores["exact"].score, rel=0.01)
    assert scores["exact"].per_limit[0].feasible < scores["exact"].per_limit[1].feasible


@needs_published
def test_smallest_other_stages_are_the_first_of_the_sampled_ones():
    _, tables, smallest = published_setup(["151122_023231"])
    sampled = load_other_stages("onnx_lut", "onnxw", tables.resolutions, "sampled")
    for one, many in zip(smallest, sampled, strict=True):
        assert len(many) == 160
        assert many[0] == pytest.approx(one[0], abs=2e-4)
        assert many.mean() > one[0]


def test_a_space_of_which_nothing_can_be_drawn_has_the_worst_score():
    quality = expected_quality(np.zeros(100), 0.01, 0.5, 0.0, Target(1.0))
    assert (quality.top_loss, quality.feasible) == (NO_SUBNET_LOSS, 0.0)
    assert quality.latency_loss == pytest.approx(float(Target(1.0).latency_loss(0.0)))
    assert quality.score == pytest.approx(1 / (quality.latency_loss * NO_SUBNET_LOSS))
