"""From images to tensors: crops, normalisation, augmentation."""


import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_trees import INFO, noise, one_line
from PIL import Image

from modules.datasets.build import DataInfo
from modules.datasets.transforms import CROP_RATIO, draw_crop, draw_shift, eval_transform, train_transform
from modules.search_space.preprocessing import IMAGENET_MEAN as MEAN
from modules.search_space.preprocessing import IMAGENET_STD as STD
from modules.utils.errors import UserError
from modules.utils.torchvision_compat import import_torchvision

torchvision = import_torchvision()


@settings(deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 2**32),
       smallest=st.floats(0.05, 1.0))
def test_crops_lie_in_the_image_and_keep_to_scale_and_ratio(width, height, seed, smallest):
    left, top, right, bottom = draw_crop(width, height, (smallest, 1.0), CROP_RATIO, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    if min(width, height) >= 20 and 0.75 <= width / height <= 4 / 3:  # else rounding and the fallback widen the ranges
        assert (w - 1) / (h + 1) <= 4 / 3
        assert (w + 1) / (h - 1) >= 3 / 4
        assert (w + 1) * (h + 1) >= smallest * width * height


def test_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = Image.new("RGB", (120, 90))
    reference = np.array([torchvision.transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], list(CROP_RATIO))
                          for _ in range(4000)])
    reference = reference[:, [1, 0, 3, 2]]  # left, top, width, height
    rng = np.random.default_rng(0)
    boxes = np.array([draw_crop(120, 90, (0.08, 1.0), CROP_RATIO, rng) for _ in range(4000)])
    boxes[:, 2:] -= boxes[:, :2]
    for part in (10, 25, 50, 75, 90):
        assert np.percentile(boxes, part, axis=0) == pytest.approx(np.percentile(reference, part, axis=0), abs=2.6)


@pytest.mark.parametrize("size", [(500, 20), (20, 500), (301, 17)])
def test_crop_fallback_is_torchvisions(size):
    # A crop of the whole area cannot have an allowed ratio here, so that every try fails.
    top, left, height, width = torchvision.transforms.RandomResizedCrop.get_params(
        Image.new("RGB", size), [1.0, 1.0], list(CROP_RATIO))
    box = draw_crop(*size, (1.0, 1.0), CROP_RATIO, np.random.default_rng(0))
    assert box == (left, top, left + width, top + height)


def denormalised(tensor):
    return (tensor * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


@pytest.mark.parametrize("hflip", [False, True])
def test_training_crop_shows_the_drawn_box(hflip):
    # Red is the column and green the row of a pixel, so that the result tells where it was taken from.
    y, x = np.mgrid[:180, :240].astype(np.uint8)
    image = Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1))
    info = DataInfo("test", ("a",), MEAN, STD, hflip=hflip, crop_scale=(0.3, 0.9))
    transform = train_transform("default", 32, info)
    mirrored = []
    for seed in range(40):
        tensor = transform(image, np.random.default_rng(seed))
        left, top, right, bottom = draw_crop(240, 180, (0.3, 0.9), CROP_RATIO, np.random.default_rng(seed))
        columns = left + (np.arange(32) + 0.5) * (right - left) / 32 - 0.5
        rows = top + (np.arange(32) + 0.5) * (bottom - top) / 32 - 0.5
        values = denormalised(tensor).numpy()
        mirrored.append(values[0, 0, 0] > values[0, 0, -1])
        seen = values[0, :, ::-1] if mirrored[-1] else values[0]
        assert np.abs(seen - columns).max() < 1.6
        assert np.abs(values[1] - rows[:, None]).max() < 1.6
    assert tensor.dtype == torch.float32
    assert 8 <= sum(mirrored) <= 32 if hflip else sum(mirrored) == 0


@pytest.mark.parametrize("shape", [(300, 256), (256, 256), (500, 333), (97, 131), (32, 32), (40, 401)])
@pytest.mark.parametrize("size", [224, 160, 64])
def test_evaluation_matches_torchvision(shape, size):
    transforms = torchvision.transforms
    image = Image.fromarray(noise(3, shape))
    reference = transforms.Compose([
        transforms.Resize(round(size * 256 / 224), transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size),
        transforms.ToTensor(), transforms.Normalize(MEAN, STD)])(image)
    result = eval_transform(size, INFO)(image, None)
    assert result.shape == (3, size, size)
    assert torch.equal(result, reference)


def test_published_normalisation():
    assert pytest.approx((0.485, 0.456, 0.406)) == MEAN
    assert pytest.approx((0.229, 0.224, 0.225)) == STD
    white = eval_transform(8, INFO)(Image.new("RGB", (8, 8), (255, 255, 255)), None)
    expected = torch.tensor([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)]).view(3, 1, 1).expand(3, 8, 8)
    assert torch.allclose(white, expected)


@pytest.mark.parametrize(("augment", "erasing"), [("default", 0.0), ("auto_augment_tf", 0.0), ("auto_augment", 1.0)])
def test_training_transform_depends_on_the_generator_alone(augment, erasing):
    image = Image.fromarray(noise(1, (60, 50)))
    transform = train_transform(augment, 24, INFO, erasing)
    results = [[transform(image, np.random.default_rng(seed)) for seed in range(6)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not any(torch.equal(results[0][0], other) for other in results[0][1:])


def test_auto_augment_adds_to_the_same_crop_and_flip():
    image = Image.fromarray(noise(1, (60, 50)))
    plain, augmented = (train_transform(name, 24, INFO) for name in ("default", "auto_augment_tf"))
    equal = [torch.equal(plain(image, np.random.default_rng(s)), augmented(image, np.random.default_rng(s)))
             for s in range(60)]
    assert 0 < sum(equal) < 30  # some sub-policies draw neither of their operations


def test_small_images_are_shifted_over_black():
    """As padded by 3 of 24 pixels and cropped at random: what torchvision's RandomCrop(24, padding=3) gives."""
    image = Image.fromarray(noise(1, (24, 24)))
    padded = np.pad(np.asarray(image), ((3, 3), (3, 3), (0, 0)))
    shifts = {(top, left): padded[top:top + 24, left:left + 24] for top in range(7) for left in range(7)}
    boxes = {draw_shift(24, 24, np.random.default_rng(seed)) for seed in range(1000)}
    assert {(top, left) for left, top, _, _ in boxes} == {(top - 3, left - 3) for top, left in shifts}
    for left, top, right, bottom in boxes:
        assert np.array_equal(np.asarray(image.crop((left, top, right, bottom))), shifts[top + 3, left + 3])


def test_a_rectangle_is_erased_after_normalisation():
    image = Image.fromarray(noise(1, (60, 50)))
    plain, erased = (train_transform("default", 32, INFO, p) for p in (0.0, 0.5))
    areas = []
    for seed in range(200):
        torch.manual_seed(7)
        before, after = (one(image, np.random.default_rng(seed)) for one in (plain, erased))
        assert torch.initial_seed() == 7
        changed = (before != after).any(0)
        if changed.any():
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            box = after[:, rows.min():rows.max() + 1, columns.min():columns.max() + 1]
            assert not box.any()
            areas.append(box[0].numel() / 32**2)
    assert 70 < len(areas) < 130
    assert 0.01 < min(areas) < 0.05
    assert 0.25 < max(areas) < 0.36


def test_light_changes_all_pixels_along_the_published_components():
    """Their covariance is .1 squared times that of the published matrices, whose rows are colours here."""
    image = Image.fromarray(noise(1, (60, 50)))
    plain, lit = (train_transform("default", 8, INFO, lighting=strength) for strength in (0.0, 0.1))
    changes = []
    for seed in range(800):
        before, after = (one(image, np.random.default_rng(seed)) for one in (plain, lit))
        change = ((after - before) * torch.tensor(STD).view(3, 1, 1)).flatten(1)
        assert (change - change.mean(1, keepdim=True)).abs().max() < 1e-5
        changes.append(change.mean(1).numpy())
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    principal = np.array(changes) @ vectors
    assert np.allclose(principal.std(0), 0.1 * values, rtol=0.1, atol=2e-6)
    assert np.allclose(np.corrcoef(principal.T), np.eye(3), atol=0.14)
    assert np.abs(principal.mean(0)).max() < 0.1 * values.max() * 4 / 800**0.5


@pytest.mark.parametrize("size", [(20000, 1), (1, 20001), (3000, 100)])
def test_the_ends_of_a_strip_take_no_memory_and_no_part(size):
    levels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    asked = []
    image = Image.fromarray(levels)
    resized = Image.Image.resize

    def resize(self, size, *rest):
        asked.append(size[0] * size[1])
        return resized(self, size, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        result = eval_transform(24, INFO)(image.convert("RGB"), None)
    assert max(asked) < 100_000
    middle = [slice((side - 8 * min(size)) // 2, (side + 8 * min(size) + 1) // 2) if side > min(size) else slice(None)
              for side in size]
    ends = np.zeros_like(levels)
    ends[tuple(middle)] = levels[tuple(middle)]
    assert torch.equal(result, eval_transform(24, INFO)(Image.fromarray(ends).convert("RGB"), None))


def test_unknown_augmentation_is_refused():
    with pytest.raises(UserError) as error:
        train_transform("randaugment", 24, INFO)
    one_line(error, "randaugment", "default, auto_augment_tf, auto_augment, shift")
