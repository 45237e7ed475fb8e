"""The predictor in the loop of the subnet search, and the selection of parents and children."""
import importlib.util
import itertools

import numpy as np
import pytest

from modules.modeling.net_spec import resolve
from modules.search import predictor
from modules.search.footprint import net_footprint
from modules.search.generations import GenerationSizes
from modules.search.predictor import fit_ensemble
from modules.search.subnet.encoding import encode_subnets
from modules.search.subnet.proposals import Proposer
from modules.search.subnet.record import Evaluated, Proposal
from modules.search.subnet.search import FILES, SubnetSearch
from modules.search.subnet.selection import choose_parents, most_promising
from modules.search.subnet.settings import SearchSettings
from modules.search.subnet.state import SearchState
from modules.search.subnet.window import Latency
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.evaluation import Accuracy
from modules.utils.errors import UserError
from modules.utils.runs import Run

SPACE = SupernetConfig.from_choice("onnxw_tiny", "053412-000000")
SUBNETS = SubnetSpace(SPACE, (32, 48, 64))
LIMIT = 12.0


class Ruler:
    """A platform of a millisecond per million multiply-accumulates."""

    def predict_subnet(self, spec):
        return net_footprint(spec).mflops


def accuracy(choice):
    """Of no training: what adds up over blocks, and what hangs together."""
    blocks = choice.blocks
    plain = sum(0.1 * b.kernel + 0.02 * b.width + 0.5 * (b.expand or 0) for b in blocks) / len(blocks)
    return 40 + 5 * plain + choice.resolution / 8 - 3 * abs(len(blocks) - 14) ** 0.5


def search(folder, evaluations, resume=False, **changes):
    settings = SearchSettings(limits=(LIMIT,), delta=LIMIT, rounds=50, max_evaluations=evaluations,
                              sizes=GenerationSizes(24, mutation_size=6, crossover_size=6), **changes)
    with Run(folder / "state.json", files=FILES, resume=resume, overwrite=False, option="--output_path") as opened:
        state = SearchState(opened, settings.identity)
    found = SubnetSearch(Proposer(SUBNETS, {"ruler": Ruler()}, 10, settings), lambda choices, test=False: (
        Accuracy(accuracy(choice), 100.0, 1.0, 400) for choice in choices), state)
    found.start()
    return found


def best_of(found):
    return max(subnet.accuracy.top1 for subnet in found.run())


def test_the_predictor_finds_in_60_evaluations_what_random_search_does_not_in_240(tmp_path):
    found = search(tmp_path / "predictor", 60, predictor="lightgbm")
    assert best_of(found) > best_of(search(tmp_path / "random", 240, method="random"))
    assert len({s.proposal.choice for s in found.evaluated}) == len(found.evaluated) == 60
    assert all(net_footprint(resolve(SPACE, s.proposal.choice, 10)).mflops <= LIMIT for s in found.evaluated)


@pytest.mark.parametrize("survival", ["fittest", "pareto"])
def test_a_search_with_a_predictor_goes_on_as_if_it_had_not_been_stopped(tmp_path, survival):
    changes = {"predictor": "lightgbm", "survival": survival, "predictor_pool": 4}
    whole = [s.proposal.choice for s in search(tmp_path / "whole", 48, **changes).run()]
    stopped = search(tmp_path / "stopped", 48, **changes)
    list(itertools.islice(stopped.run(), 30))
    stopped.state.save()
    again = search(tmp_path / "stopped", 48, resume=True, **changes)
    assert [s.proposal.choice for s in again.run()] == whole


def test_without_its_package_a_predictor_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "find_spec", lambda name: None if name == "lightgbm" else importlib.util.find_spec(
        name))
    with pytest.raises(UserError, match="--predictor lightgbm: package lightgbm is not installed"):
        search(tmp_path, 20, predictor="lightgbm")
    assert best_of(search(tmp_path, 20)) > 0


def test_an_ensemble_is_less_sure_where_it_has_seen_less():
    rng = np.random.default_rng(0)
    known = np.concatenate([rng.uniform(0, 0.5, (150, 2)), rng.uniform(0.5, 1, (6, 2))])
    target = np.sin(9 * known[:, 0]) + known[:, 1] + rng.normal(0, 0.05, len(known))
    ensemble = fit_ensemble(known, target, (0, 1))
    asked = rng.uniform(0, 1, (400, 2))
    mean, deviation = ensemble.predict(asked)
    dense, sparse = (asked < 0.5).all(axis=1), (asked > 0.5).all(axis=1)
    assert deviation[sparse].mean() > 2 * deviation[dense].mean()
    true = np.sin(9 * asked[:, 0]) + asked[:, 1]
    assert np.corrcoef(mean[dense], true[dense])[0, 1] > 0.97
    np.testing.assert_array_equal(fit_ensemble(known, target, (0, 1)).predict(asked)[0], mean)
    assert (fit_ensemble(known, target, (0, 2)).predict(asked)[0] != mean).any()


def test_different_subnets_have_different_codes():
    rng = np.random.default_rng(0)
    choices = list({SUBNETS.sample(rng) for _ in range(200)})
    codes = encode_subnets(choices, SUBNETS.stages)
    assert codes.shape == (len(choices), 1 + sum(1 + 3 * (max(s.depths) + 1) for s in SUBNETS.stages))
    assert len(np.unique(codes, axis=0)) == len(choices)
    assert codes[:, 0].tolist() == [choice.resolution for choice in choices]
    first = choices[0].stages[0]
    assert codes[0, 1:5].tolist() == [len(first), first[0].kernel, first[0].width, first[0].expand or 0]


def evaluated(points):
    subnet = SUBNETS.extreme(min)
    return [Evaluated(Proposal(subnet, Latency((float(ms),)), 1.0, params, 0, (LIMIT,), 1.0, 1.0),
                      Accuracy(float(top1), 100.0, 1.0, 100)) for top1, ms, params in points]


def test_parents_by_pareto_are_the_whole_front_before_anything_else():
    rng, sizes = np.random.default_rng(2), GenerationSizes(40, parent_ratio=0.5)
    points = [(*rng.integers(0, 50, 2), 1.0) for _ in range(60)]
    known = sorted(evaluated(points), key=lambda e: e.fitness, reverse=True)
    front = {(e.accuracy.top1, e.proposal.ms) for e in known if not any(
        o.accuracy.top1 >= e.accuracy.top1 and o.proposal.ms <= e.proposal.ms and
        (o.accuracy.top1, o.proposal.ms) != (e.accuracy.top1, e.proposal.ms) for o in known)}
    known = [Evaluated(Proposal(SUBNETS.sample(rng), e.proposal.latency, 1.0, 1.0, 0, (LIMIT,), 1.0, 1.0), e.accuracy)
             for e in known]
    by_choice = {e.proposal.choice: (e.accuracy.top1, e.proposal.ms) for e in known}
    parents = choose_parents(known, SearchSettings(limits=(LIMIT,), survival="pareto", sizes=sizes))
    assert len(parents) == 20
    assert {by_choice[p] for p in parents[:sum(by_choice[p] in front for p in parents)]} == front
    fittest = choose_parents(known, SearchSettings(limits=(LIMIT,), sizes=sizes))
    assert fittest == [e.proposal.choice for e in known[:20]]


def test_most_promising_by_score_and_by_front():
    scores, costs = np.array([3.0, 5.0, 4.0, 1.0]), np.array([[2.0], [9.0], [9.5], [1.0]])
    assert most_promising("abcd", scores, 2) == ["b", "c"]
    assert set(most_promising("abcd", scores, 3, costs)) == {"a", "b", "d"}  # c is beaten by b in both
