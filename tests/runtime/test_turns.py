"""Timing of several sessions in turns: each run that counts follows a run of the same session."""
from itertools import count

import numpy as np
import pytest

from modules.runtime.session import Input, time_interleaved


class Cached:
    """A session whose run takes 1 s after one of its own, and 10 s after one of another: it finds the caches cold."""

    def __init__(self, world):
        self.world, self.metadata = world, {}

    def get_inputs(self):
        return [Input("x", [1, 3, 4, 4], False)]

    def feed(self, images):
        self.images = images

    def invoke(self):
        self.world["now"] += 1 if self.world.get("last") is self else 10
        self.world["last"] = self
        self.world["runs"] = self.world.get("runs", 0) + 1


@pytest.mark.parametrize("number", [1, 2, 30])
def test_a_latency_does_not_depend_on_the_number_of_other_files(number):
    world = {"now": 0.0}
    times = time_interleaved({i: Cached(world) for i in range(number)}, runs=5, warmup=2, clock=lambda: world["now"])
    assert list(times) == list(range(number))
    for values in times.values():
        np.testing.assert_array_equal(values, np.full(5, 1000.0))
    assert world["runs"] == 2 * number * 7


def test_turns_go_through_all_sessions():
    order, ticks = [], count()

    class Named(Cached):
        def invoke(self):
            order.append(self)
    first, second = Named({}), Named({})
    time_interleaved({"a": first, "b": second}, runs=2, warmup=0, clock=lambda: next(ticks))
    assert order == [first, first, second, second] * 2
