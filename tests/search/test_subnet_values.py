"""The values of a search of subnets: settings, windows, fronts."""
import numpy as np
import pytest
from pareto import dominated

from modules.search.subnet.proposals import SearchSettings
from modules.search.subnet.record import Evaluated, Proposal, pareto_front
from modules.search.subnet.window import Latency, Window
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.evaluation import Accuracy
from modules.utils.errors import UserError


@pytest.mark.parametrize("changes", [
    {"limits": (-1.0,)}, {"limits": (1.0, 1.0)}, {"delta": 0.0}, {"method": "luck"}, {"arch_mutate_prob": 1.5},
    {"rounds": -1}, {"max_evaluations": -1}, {"limits": (float("nan"),)}])
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(UserError):
        SearchSettings(**{"limits": (1.0,), **changes})


def test_window_ends_belong_to_it():
    window = Window((3.0,), 1.0)
    assert [window.holds(Latency((v,))) for v in (1.99, 2.0, 3.0, 3.01)] == [False, True, True, False]


def test_pareto_front_against_brute_force():
    rng = np.random.default_rng(0)
    subnet = SubnetSpace(SupernetConfig.from_choice("onnxw_tiny", "053412-000000"), (32,)).extreme(min)
    for _ in range(50):
        points = [tuple(map(float, rng.integers(0, 12, size=2))) for _ in range(30)]
        subnets = [Evaluated(Proposal(subnet, Latency((x,)), 1.0, 1.0, 0, (9.0,), 1.0, 1.0),
                             Accuracy(y, 100.0, 1.0, 100)) for x, y in points]
        front = [(e.proposal.ms, e.accuracy.top1) for e in pareto_front(subnets)]
        assert front == sorted({p for p in points if not dominated(p, points)})
