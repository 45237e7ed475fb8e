"""Non-dominated sorting against its definition and against pymoo, crowding against its formula, and the search."""
import numpy as np
import pytest
from pareto import dominated

from modules.search.pareto import crowding, ranks, select


def brute_fronts(costs):
    """Fronts as sets of positions: what none of the points that are left dominates."""
    left, fronts = set(range(len(costs))), []
    while left:
        front = {i for i in left if not any(
            all(costs[j] <= costs[i]) and any(costs[j] < costs[i]) for j in left)}
        fronts.append(front)
        left -= front
    return fronts


def clouds():
    rng = np.random.default_rng(0)
    for objectives in (1, 2, 3):
        for values in (4, 1000):  # with many equal points, and with few
            yield rng.integers(0, values, (60, objectives)).astype(float)


def test_fronts_are_those_of_the_definition():
    for costs in clouds():
        fronts = brute_fronts(costs)
        assert [set(np.flatnonzero(ranks(costs) == i)) for i in range(len(fronts))] == fronts
        assert ranks(costs).max() == len(fronts) - 1
    points = [(float(x), -float(y)) for x, y in costs[:, :2]]
    front = {points[i] for i in np.flatnonzero(ranks(costs[:, :2]) == 0)}
    assert front == {p for p in points if not dominated(p, points)}


def test_fronts_and_crowding_are_those_of_pymoo():
    pytest.importorskip("pymoo", reason="pymoo is not installed")
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    for costs in clouds():
        theirs = NonDominatedSorting().do(costs, return_rank=True)[1]
        np.testing.assert_array_equal(ranks(costs), theirs)
        front = np.unique(costs[ranks(costs) == 0], axis=0)
        if len(front) > 2:
            ours = crowding(front)
            np.testing.assert_allclose(np.where(np.isinf(ours), 0, ours / costs.shape[1]),
                                       np.where(np.isinf(d := calc_crowding_distance(front)), 0, d), atol=1e-12)


def test_crowding_of_four_points():
    """Ranges 10 and 8; the inner points have neighbours 6 and 7 apart, then 6 and 6."""
    costs = np.array([[0.0, 8.0], [2.0, 5.0], [6.0, 1.0], [10.0, 0.0]])
    assert crowding(costs).tolist() == [np.inf, pytest.approx(6 / 10 + 7 / 8), pytest.approx(8 / 10 + 5 / 8), np.inf]
    assert crowding(np.ones((3, 2))).tolist() == [0, 0, 0]


def test_survivors_come_by_front_then_by_loneliness():
    costs = np.array([[0, 8], [2, 5], [3, 4.5], [6, 1], [10, 0], [3, 6], [11, 11]], float)
    assert select(costs, 7).tolist()[5:] == [5, 6]  # the second and the third front
    assert set(select(costs, 5)) == {0, 1, 2, 3, 4}
    assert set(select(costs, 2)) == {0, 4}
    assert select(costs, 3).tolist()[2] == 3  # the inner point that is farthest from its neighbours
    assert select(np.empty((0, 2)), 5).tolist() == []
