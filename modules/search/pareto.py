"""Non-dominated sorting and crowding distance, as in NSGA-II (Deb et al., 2002), over costs: lower is better in each.

A point dominates another if it is nowhere worse and somewhere better.
"""
from __future__ import annotations

import numpy as np


def ranks(costs: np.ndarray) -> np.ndarray:
    """The number of the front of each point, (n,), such as (500,); 0 for points that no other dominates.

    Front k holds the points that no other dominates after fronts 0 to k - 1 are taken away (section III-A). Takes n * n
    bytes.

    Args:
        costs: shape (n, objectives), such as (500, 2).
    """
    beats = _dominates(costs)
    dominators = beats.sum(axis=0)
    result, left, number = np.zeros(len(costs), int), np.ones(len(costs), bool), 0
    while left.any():
        front = left & (dominators == 0)
        result[front], left[front] = number, False
        dominators = dominators - beats[front].sum(axis=0)
        number += 1
    return result


def crowding(costs: np.ndarray) -> np.ndarray:
    """The crowding distance of each point among all of them, (n,), such as (500,).

    The sum over the objectives of the distance between a point's two neighbours, divided by the range; infinite at both
    ends (section III-B). A constant objective counts nothing.

    Args:
        costs: shape (n, objectives) of one front.
    """
    distance = np.zeros(len(costs))
    for column in costs.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        if span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
            distance[order[[0, -1]]] = np.inf
    return distance


def select(costs: np.ndarray, count: int) -> np.ndarray:
    """The positions of the `count` points that survive, best first: by front, and within a front the less crowded ones
    first.

    Args:
        costs: shape (n, objectives).
    """
    front, distance = ranks(costs), np.zeros(len(costs))
    for number in range(front.max(initial=-1) + 1):
        distance[front == number] = crowding(costs[front == number])
    return np.lexsort((np.arange(len(costs)), -distance, front))[:count]


def _dominates(costs: np.ndarray) -> np.ndarray:
    """Whether point i (row) dominates point j (column)."""
    no_worse = np.ones((len(costs), len(costs)), bool)
    better = np.zeros_like(no_worse)
    for column in costs.T:
        no_worse &= column[:, None] <= column
        better |= column[:, None] < column
    return no_worse & better
