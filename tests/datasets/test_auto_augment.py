"""AutoAugment v0: each operation against an independent reference, the policy table, and the random choices."""

import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from modules.datasets import auto_augment
from modules.datasets.auto_augment import FILL, OPERATIONS, POLICY_V0, AutoAugment, apply_op, draw_level
from modules.utils.torchvision_compat import import_torchvision

F = import_torchvision().transforms.functional
MODES = {
    Image.Resampling.NEAREST: F.InterpolationMode.NEAREST,
    Image.Resampling.BILINEAR: F.InterpolationMode.BILINEAR,
    Image.Resampling.BICUBIC: F.InterpolationMode.BICUBIC,
}
LEVELS = (0.0, 0.7, 2.0, 4.99, 5.0, 7.3, 10.0)


class Scripted:
    """Stands in for the generator: `negative` decides the sign, `choice` the resampling."""

    def __init__(self, negative=False, choice=0):
        self.negative, self.choice = negative, choice

    def random(self):
        return 0.25 if self.negative else 0.75

    def integers(self, n):
        return self.choice


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(30, 220, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((41, 32), Image.Resampling.BICUBIC)


def pixels(image):
    return np.asarray(image).astype(int)


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(("name", "reference"), [
    ("Equalize", F.equalize), ("AutoContrast", F.autocontrast), ("Invert", F.invert)])
@pytest.mark.parametrize("level", [0.0, 6.5])
def test_operations_without_argument_match_torchvision(image, name, reference, level):
    assert same(apply_op(image, name, level, Scripted()), reference(image))


@pytest.mark.parametrize("level", LEVELS)
def test_color_mixes_with_luma(image, level):
    factor = 0.18 * level + 0.1
    result = apply_op(image, "Color", level, Scripted())
    assert same(result, F.adjust_saturation(image, factor))
    grey = pixels(image) @ np.array([0.299, 0.587, 0.114])
    expected = np.clip(grey[..., None] + factor * (pixels(image) - grey[..., None]), 0, 255)
    assert np.abs(pixels(result) - expected).max() <= 1.5  # luma and result are rounded


@pytest.mark.parametrize("level", LEVELS)
def test_posterize_keeps_the_high_bits(image, level):
    bits = int(0.4 * level) + 4
    expected = pixels(image) >> (8 - bits) << (8 - bits)
    assert np.array_equal(pixels(apply_op(image, "Posterize", level, Scripted())), expected)


def test_posterize_at_full_level_changes_nothing(image):
    assert same(apply_op(image, "Posterize", 10.0, Scripted()), image)


@pytest.mark.parametrize("level", LEVELS)
def test_solarize_inverts_from_the_threshold_on(image, level):
    values = pixels(image)
    expected = np.where(values >= int(25.6 * level), 255 - values, values)
    assert np.array_equal(pixels(apply_op(image, "Solarize", level, Scripted())), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_solarize_add_brightens_the_dark_half(level):
    values = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    expected = values.astype(int)
    expected = np.where(expected < 128, np.minimum(expected + int(11 * level), 255), expected)
    assert np.array_equal(pixels(apply_op(Image.fromarray(values), "SolarizeAdd", level, Scripted())), expected)


@pytest.mark.parametrize("choice", range(3))
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("level", [0.0, 3.0, 10.0])
def test_rotate_matches_torchvision(image, level, negative, choice):
    angle = -3 * level if negative else 3 * level
    mode = MODES[auto_augment._RESAMPLING[choice]]
    assert same(apply_op(image, "Rotate", level, Scripted(negative, choice)),
                F.rotate(image, angle, interpolation=mode, fill=list(FILL)))


def inverse_mapped(image, source_x, source_y):
    """Nearest-neighbour resampling written out: output (x, y) shows the pixel that contains source_x, source_y."""
    values = pixels(image)
    height, width, _ = values.shape
    y, x = np.mgrid[:height, :width] + 0.5
    column, row = np.floor(source_x(x, y)).astype(int), np.floor(source_y(x, y)).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    result = np.empty_like(values)
    result[:] = FILL
    result[inside] = values[row[inside], column[inside]]
    return result


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("level", [0.0, 2.5, 10.0])
def test_shears_and_translation_in_closed_form(image, level, negative):
    sign = -1 if negative else 1
    shear, shift = sign * 0.03 * level, sign * 0.045 * level * image.height
    expected = {
        "ShearX": inverse_mapped(image, lambda x, y: x + shear * y, lambda x, y: y),
        "ShearY": inverse_mapped(image, lambda x, y: x, lambda x, y: y + shear * x),
        "TranslateYRel": inverse_mapped(image, lambda x, y: x, lambda x, y: y + shift),
    }
    for name, reference in expected.items():
        result = pixels(apply_op(image, name, level, Scripted(negative)))
        # A source point on the border of two pixels may fall to either side.
        assert (result != reference).any(axis=2).mean() < 0.01, name


@pytest.mark.parametrize("choice", range(3))
@pytest.mark.parametrize("negative", [False, True])
def test_shear_x_matches_torchvision_affine(image, negative, choice):
    factor = -0.15 if negative else 0.15
    reference = F.affine(image, angle=0, translate=[0, 0], scale=1.0, shear=[math.degrees(math.atan(factor)), 0],
                         interpolation=MODES[auto_augment._RESAMPLING[choice]], fill=list(FILL), center=[0, 0])
    assert same(apply_op(image, "ShearX", 5.0, Scripted(negative, choice)), reference)


def test_policy_is_the_published_table():
    assert len(POLICY_V0) == 25
    assert all(len(sub_policy) == 2 for sub_policy in POLICY_V0)
    entries = [entry for sub_policy in POLICY_V0 for entry in sub_policy]
    assert {name for name, _, _ in entries} == set(OPERATIONS)
    assert all(0 <= p <= 1 and round(p * 10) == pytest.approx(p * 10) for _, p, _ in entries)
    assert all(isinstance(m, int) and 0 <= m <= 10 for _, _, m in entries)
    # Counts and sums of the published table.
    assert Counter(name for name, _, _ in entries) == {
        "Equalize": 12, "Color": 9, "Rotate": 7, "Solarize": 8, "ShearY": 4, "ShearX": 2, "SolarizeAdd": 2,
        "Posterize": 2, "AutoContrast": 2, "Invert": 1, "TranslateYRel": 1}
    assert sum(p for _, p, _ in entries) == pytest.approx(29.8)
    assert sum(m for _, _, m in entries) == 240
    assert POLICY_V0[15] == (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9))


@pytest.mark.parametrize("magnitude", [0, 5, 10])
def test_levels_are_a_clipped_normal(magnitude):
    rng = np.random.default_rng(1)
    levels = np.array([draw_level(magnitude, rng) for _ in range(4000)])
    assert levels.min() >= 0
    assert levels.max() <= 10
    inner = 0.5 * math.sqrt(2 / math.pi) / 2  # mean of max(normal(0, 0.5), 0)
    mean = {0: inner, 5: 5.0, 10: 10 - inner}[magnitude]
    assert levels.mean() == pytest.approx(mean, abs=0.03)
    if magnitude == 5:
        assert levels.std() == pytest.approx(0.5, abs=0.02)
        assert np.mean(np.abs(levels - 5) < 0.5) == pytest.approx(0.6827, abs=0.03)
    else:
        assert np.mean(levels == magnitude) == pytest.approx(0.5, abs=0.03)


def record_calls(monkeypatch):
    calls = []

    def recorded(image, name, level, rng):
        calls.append((name, level))
        return image

    monkeypatch.setattr(auto_augment, "apply_op", recorded)
    return calls


def test_sub_policies_are_chosen_uniformly(monkeypatch):
    calls = record_calls(monkeypatch)
    # One always-applied operation per sub-policy, named by its number, beside one that never is.
    augment = AutoAugment(tuple(((i, 1.0, 5), (-1, 0.0, 5)) for i in range(25)))
    rng = np.random.default_rng(0)
    for _ in range(5000):
        augment(None, rng)
    counts = Counter(name for name, _ in calls)
    assert sum(counts.values()) == 5000
    chi_square = sum((counts[i] - 200) ** 2 / 200 for i in range(25))
    assert chi_square < 51.2  # exceeded with probability 0.001 at 24 degrees of freedom


def test_operations_are_applied_in_order_with_their_probability(monkeypatch):
    calls = record_calls(monkeypatch)
    augment = AutoAugment(((("first", 0.8, 2), ("second", 0.3, 7)),))
    rng = np.random.default_rng(3)
    both = 0
    for _ in range(4000):
        before = len(calls)
        augment(None, rng)
        names = [name for name, _ in calls[before:]]
        assert names in ([], ["first"], ["second"], ["first", "second"])
        both += len(names) == 2
    counts = Counter(name for name, _ in calls)
    assert counts["first"] / 4000 == pytest.approx(0.8, abs=0.03)
    assert counts["second"] / 4000 == pytest.approx(0.3, abs=0.03)
    assert both / 4000 == pytest.approx(0.24, abs=0.03)
    assert np.mean([level for name, level in calls if name == "second"]) == pytest.approx(7, abs=0.1)


def test_signs_and_resampling_are_drawn_evenly():
    rng = np.random.default_rng(2)
    signs = [auto_augment._signed(1.0, rng) for _ in range(3000)]
    assert np.mean(np.array(signs) < 0) == pytest.approx(0.5, abs=0.04)
    modes = Counter(auto_augment._resampling(rng) for _ in range(3000))
    assert set(modes) == set(MODES)
    assert all(count == pytest.approx(1000, abs=100) for count in modes.values())


def test_image_depends_on_the_generator_alone(image):
    augment = AutoAugment()
    results = [[augment(image, np.random.default_rng(seed)) for seed in range(30)] for _ in range(2)]
    assert all(same(a, b) for a, b in zip(*results, strict=True))
    assert len({result.tobytes() for result in results[0]}) > 15
    assert all(result.size == image.size and result.mode == "RGB" for result in results[0])
