"""The moved and the cluttered digits: the same everywhere, made of their own part alone, harder than the digits."""
import numpy as np
import pytest

from modules.datasets.embedded.digits import open_digits
from modules.datasets.embedded.drawn_digits import (
    MARGIN,
    MOVED,
    VARIANTS,
    draw,
    open_cluttered_digits,
    open_moved_digits,
)


@pytest.fixture(scope="module", params=[open_moved_digits, open_cluttered_digits])
def parts(request):
    return request.param()


def test_each_digit_becomes_pictures_of_its_class(parts):
    for digits, pictures in zip(open_digits(), parts, strict=True):
        assert len(pictures) == VARIANTS * len(digits)
        assert pictures.classes == digits.classes
        assert (pictures.labels == np.repeat(digits.labels, VARIANTS)).all()
        assert np.asarray(pictures.image(0)).shape == (32, 32, 3)


@pytest.mark.parametrize("opened", [open_moved_digits, open_cluttered_digits])
def test_pictures_are_the_same_each_time(opened):
    assert all((a.pixels == b.pixels).all() for a, b in zip(opened(), opened(), strict=True))


def test_one_digit_alone_is_drawn_upright_and_as_large_as_it_was():
    """Without clutter, turn and noise a picture is the digit, scaled bilinearly: its mass and its middle say so."""
    class Still(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            if low == -high:
                return np.zeros(size)  # not turned
            return super().uniform(low, high, size)

    digit = np.zeros((1, 8, 8), np.float32)
    digit[0, 2:6, 2:4] = 1
    picture = draw(digit, np.zeros(200, int), MOVED, Still(np.random.PCG64(0))).astype(float)
    paper = np.median(picture.reshape(200, -1, 3), axis=1)[:, None, None]
    ink = np.abs(picture - paper).sum(-1) > 120
    rows, columns = ink.any(2).sum(1), ink.any(1).sum(1)
    assert np.median(rows) > np.median(columns)  # a bar that stands
    inner = slice(MARGIN, -MARGIN)
    assert ink[:, inner, inner].sum() == ink.sum()  # a centre crop cuts nothing


@pytest.mark.parametrize(("opened", "most"), [(open_moved_digits, 0.85), (open_cluttered_digits, 0.55)])
def test_a_nearest_neighbour_on_pixels_fails_where_it_masters_the_digits(opened, most):
    def accuracy(train, valid):
        a, b = (np.stack([np.asarray(s.image(i).convert("L"), float).ravel() for i in range(len(s))])
                for s in (train, valid))
        nearest = ((b ** 2).sum(1)[:, None] - 2 * b @ a.T + (a ** 2).sum(1)[None]).argmin(1)
        return (train.labels[nearest] == valid.labels).mean()

    assert accuracy(*open_digits()) > 0.95
    assert accuracy(*opened()) < most
