"""Batched augmentation: against numpy's own padding, in its distribution, and wherever an epoch is entered."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from modules.datasets import shift
from modules.datasets.build import Data, DataInfo
from modules.datasets.loading import train_batches
from modules.datasets.shift import held_pixels, suits
from modules.datasets.sources import ArraySource
from modules.datasets.transforms import eval_transform, train_transform
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.utils.errors import UserError

SIDE, COUNT = 16, 60
INFO = DataInfo("test", ("a", "b"), IMAGENET_MEAN, IMAGENET_STD, hflip=True, crop_scale=(0.08, 1.0), eval_crop=1.0)


@pytest.fixture
def data():
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    source, indices = ArraySource(pixels, INFO.classes, np.arange(COUNT) % 2), np.arange(4, COUNT)
    return Data(INFO, source, indices, source, indices[:0], source, indices[:0])


def epoch_images(data, epoch=0, size=SIDE, **options):
    batches = train_batches(data, train_transform("shift", size, INFO), batch_size=10, seed=3, epoch=epoch, **options)
    return list(batches)


def originals(data, epoch=0, **options):
    """The same images in the same order, without augmentation."""
    return torch.cat([x for x, _ in train_batches(data, lambda image, rng: eval_transform(SIDE, INFO)(image),
                                                  batch_size=10, seed=3, epoch=epoch, **options)])


def placements(image):
    """Every shift and flip of a normalised image [3, S, S], by (rows, columns, flipped)."""
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    for dy in range(5):
        for dx in range(5):
            crop = padded[:, dy:dy + SIDE, dx:dx + SIDE]
            yield (dy, dx, False), torch.from_numpy(crop.copy())
            yield (dy, dx, True), torch.from_numpy(crop[:, :, ::-1].copy())


def test_every_image_is_a_reflected_shift_of_its_own(data):
    found = {}
    for epoch in (0, 1):
        images = torch.cat([x for x, _ in epoch_images(data, epoch)])
        plain = originals(data, epoch)
        assert images.dtype == torch.float32
        assert len(images) == len(plain) == COUNT - 4
        for image, original in zip(images, plain, strict=True):
            matches = [key for key, placed in placements(original) if torch.allclose(placed, image, atol=1e-5)]
            assert len(matches) == 1
            found.setdefault(original.sum().item(), []).append(matches[0])
    assert all(first[2] != second[2] for first, second in found.values())  # mirrored in every other epoch
    keys = np.array([key for pair in found.values() for key in pair])
    assert (np.bincount(keys[:, 0], minlength=5) > 10).all()  # of 112 draws, each of five offsets
    assert (np.bincount(keys[:, 1], minlength=5) > 10).all()
    first = np.array([pair[0][2] for pair in found.values()])
    assert 10 < first.sum() < 46


def test_an_image_is_the_same_whoever_makes_it_and_when(data):
    whole = epoch_images(data)
    labels = torch.cat([y for _, y in whole])
    resumed = epoch_images(data, start_step=2)
    torch.testing.assert_close(torch.cat([x for x, _ in resumed]), torch.cat([x for x, _ in whole[2:]]), rtol=0, atol=0)
    images = {tuple(x.flatten()[:9].tolist()) for x in torch.cat([x for x, _ in whole])}
    ranks = [torch.cat([x for x, _ in epoch_images(data, rank=r, world_size=2)]) for r in (0, 1)]
    assert {tuple(x.flatten()[:9].tolist()) for x in torch.cat(ranks)} == images
    assert sorted(labels.tolist()) == sorted((np.arange(4, COUNT) % 2).tolist())
    dropped = train_batches(data, train_transform("shift", SIDE, INFO), batch_size=10, seed=3, epoch=0, drop_last=True)
    assert len(dropped) == len(list(dropped)) == 5


@pytest.mark.parametrize("size", [SIDE, 24])
def test_erased_rectangles_follow_torchvisions_law(data, size):
    from modules.datasets.torchvision_augment import random_erasing

    def batches(erasing):
        return torch.cat([x for epoch in range(20) for x, _ in train_batches(
            data, train_transform("shift", size, INFO, erasing), batch_size=10, seed=3, epoch=epoch)])

    plain, images = batches(0.0), batches(0.6)
    gone = (images != plain).all(1)
    assert (images[:, 0][gone] == 0).all()
    torch.testing.assert_close(images.masked_fill(gone[:, None], 1.0), plain.masked_fill(gone[:, None], 1.0))
    heights, widths = gone.any(2).sum(1), gone.any(1).sum(1)
    assert (gone.sum((1, 2)) == heights * widths).all()  # rectangles
    erase, rng = random_erasing(1.0), np.random.default_rng(0)
    theirs = torch.stack([erase(torch.ones(3, size, size), rng)[0] == 0 for _ in range(1120)])
    their_heights, their_widths = theirs.any(2).sum(1), theirs.any(1).sum(1)
    ours = heights > 0
    assert abs(ours.float().mean() - 0.6) < 0.05  # three standard deviations of 1,120 draws
    lefts, their_lefts = (mask.int().argmax(2).max(1).values for mask in (gone, theirs))
    for own, other in ((heights, their_heights), (widths, their_widths), (lefts, their_lefts),
                       (heights * widths, their_heights * their_widths)):
        assert ks_2samp(own[ours], other).pvalue > 1e-3
    resumed = train_batches(data, train_transform("shift", size, INFO, 0.6), batch_size=10, seed=3, epoch=0,
                            start_step=2)
    torch.testing.assert_close(torch.cat([x for x, _ in resumed]), images[20:56], rtol=0, atol=0)


def test_another_size_and_images_of_two_sizes(data):
    assert epoch_images(data, size=24)[0][0].shape == (10, 3, 24, 24)
    assert epoch_images(data)[0][0].is_contiguous(memory_format=torch.channels_last)

    class Mixed(ArraySource):
        def array(self, index):
            return super().array(index)[:8, :8] if index == 20 else super().array(index)

    mixed = Mixed(data.train.pixels, INFO.classes, data.train.labels)
    mixed = Data(INFO, mixed, data.train_indices, mixed, data.valid_indices, mixed, data.test_indices)
    with pytest.raises(UserError, match=r"'shift' of images of 16 x 16 and 8 x 8 pixels; allowed: images of one size"):
        epoch_images(mixed)
    assert not suits(mixed, SIDE)


def test_no_more_pixels_are_held_than_fit(data, monkeypatch):
    size = len(data.train_indices) * SIDE * SIDE * 3
    monkeypatch.setattr(shift, "HELD_BYTES", size - 1)
    with pytest.raises(UserError, match="'shift' of 56 images of 16 x 16 pixels; allowed: images of one size that fit"):
        epoch_images(data)
    assert not suits(data, SIDE)
    monkeypatch.setattr(shift, "HELD_BYTES", size)
    assert suits(data, SIDE)


def test_each_image_is_decoded_once_and_when_it_is_needed(data):
    """A few batches, such as those that calibrate batch norm, need few images; epochs after the first need none."""
    decoded = []

    class Counted(ArraySource):
        def array(self, index):
            decoded.append(index)
            return super().array(index)

    expected = torch.cat([images for images, _ in epoch_images(data, epoch=1)])
    source = Counted(data.train.pixels, INFO.classes, data.train.labels)
    counted = replace(data, train=source)
    batches = iter(train_batches(counted, train_transform("shift", SIDE, INFO), batch_size=10, seed=3, epoch=0))
    next(batches), next(batches)
    assert len(decoded) == 1 + 20  # the first tells the size
    list(batches)
    assert sorted(decoded) == [4, *range(4, COUNT)]
    torch.testing.assert_close(torch.cat([x for x, _ in epoch_images(counted, epoch=1)]), expected, rtol=0, atol=0)
    assert len(decoded) == 1 + COUNT - 4
    held = held_pixels(source, counted.train_indices, "cpu")
    held_pixels(source, counted.train_indices, "meta")  # another device, as calibration's beside training's
    for name in ("cpu:0", torch.device("cpu")):
        assert held_pixels(source, counted.train_indices, name) is held


def test_images_near_the_size_of_the_network_are_shifted(data):
    assert [suits(data, size) for size in (8, 12, 16, 64)] == [False, True, True, True]
    assert not suits(replace(data, info=replace(INFO, name="moved_digits")), SIDE)


def test_whole_image_in_evaluation(data):
    image = data.train.image(5)
    values = torch.from_numpy(data.train.pixels[5]) / 255
    expected = ((values - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(2, 0, 1)
    torch.testing.assert_close(eval_transform(SIDE, INFO)(image), expected)


@pytest.mark.parametrize("high", [False, True])
def test_of_an_oblong_image_its_centre_counts_as_in_evaluation(data, high):
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, SIDE, SIDE + 8, 3), dtype=np.uint8)
    source = ArraySource(pixels.transpose(0, 2, 1, 3) if high else pixels, INFO.classes, np.arange(COUNT) % 2)
    oblong = replace(data, train=source)
    for image, original in zip(torch.cat([x for x, _ in epoch_images(oblong)]), originals(oblong), strict=True):
        assert sum(torch.allclose(placed, image, atol=1e-5) for _, placed in placements(original)) == 1
