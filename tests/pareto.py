"""Domination of points, by definition."""


def dominated(point, points):
    return any(x <= point[0] and y >= point[1] and (x, y) != point for x, y in points)
