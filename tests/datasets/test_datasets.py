"""Sources, splits, transforms and loaders, on images written by the tests and on the two real sets at hand."""

import math
import os
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modules.datasets import held, torchvision_sets
from modules.datasets.build import DATASETS, Data, DataInfo, load_data
from modules.datasets.folder import open_path
from modules.datasets.held import HeldDecoded
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.sources import ArraySource, EncodedSource
from modules.datasets.transforms import CROP_RATIO, draw_crop, eval_transform, train_transform
from modules.search_space.imagenet import IMAGENET_MEAN as MEAN
from modules.search_space.imagenet import IMAGENET_STD as STD
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.torchvision_compat import import_torchvision

torchvision = import_torchvision()
REAL_CIFAR = REPOSITORY.parent / "shared" / "data" / "cifar10"
CLASSES = ("Über", "ant", "zebra crossing")
INFO = DataInfo("test", ("a", "b"), MEAN, STD, hflip=True, crop_scale=(0.08, 1.0))
LAYOUTS = ("folders", "tar", "zip", "zip without top")


def noise(seed, size=(11, 8)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def image_tree():
    """{part: {class: {file name: pixels}}}, names and classes deliberately not in sorted order."""
    return {
        "train": {name: {f"{i}.PNG": noise(10 * c + i) for i in (3, 0, 2, 1)} for c, name in enumerate(CLASSES[::-1])},
        "val": {name: {f"v{i}.png": noise(100 + 10 * c + i) for i in range(2)} for c, name in enumerate(CLASSES[:2])},
    }


def write_folders(tree, root):
    for part, classes in tree.items():
        for name, images in classes.items():
            (root / part / name).mkdir(parents=True)
            for file, pixels in images.items():
                Image.fromarray(pixels).save(root / part / name / file)
            (root / part / name / ".DS_Store").write_bytes(b"no image")
            (root / part / name / "notes.txt").write_text("no image either")


def write_layout(layout, tree, root):
    """Write the images in one of LAYOUTS below `root`."""
    staging = root / "staging"
    write_folders(tree, staging)
    if layout == "folders":
        for part in tree:
            (staging / part).rename(root / part)
    for part in tree if layout != "folders" else ():
        paths = sorted(path for path in (staging / part).rglob("*") if path.is_file())[::-1]
        if layout == "tar":
            with tarfile.open(root / f"ILSVRC2012_img_{part}.tar", "w") as archive:
                archive.add(staging / part, "images", recursive=False)
                for path in paths:
                    archive.add(path, f"images/{path.relative_to(staging / part)}")
        else:
            top = staging / part if layout == "zip without top" else staging
            with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
                for i, path in enumerate(paths):
                    method = zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED
                    archive.write(path, path.relative_to(top), compress_type=method)
    shutil.rmtree(staging)
    return str(root)


@pytest.fixture(params=LAYOUTS)
def written(request, tmp_path):
    return write_layout(request.param, image_tree(), tmp_path)


def numbers_source(count):
    """Image i is of the colour (i, i, i), its label i % 7."""
    pixels = np.repeat(np.arange(count, dtype=np.uint8)[:, None, None, None], 3, axis=3)
    return ArraySource(pixels, map(str, range(7)), np.arange(count) % 7)


def numbers_data(count, train_indices=None):
    source = numbers_source(count)
    indices = np.arange(count) if train_indices is None else np.asarray(train_indices)
    return Data(INFO, source, indices, source, np.arange(count), source, np.arange(count))


def show_draw(image, rng):
    """A transform that gives the image's number and what its generator draws first."""
    return torch.tensor([image.getpixel((0, 0))[0], rng.random()], dtype=torch.float64)


def collect(batches):
    return [(images.clone(), labels.clone()) for images, labels in batches]


def same_batches(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for p, q in zip(a, b, strict=True)
                                    for x, y in zip(p, q, strict=True))


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    assert "allowed" in message
    assert all(str(part) in message for part in parts), message


# ---- sources ----

def test_torchvision_is_imported_once():
    assert import_torchvision() is torchvision
    assert torchvision.transforms.functional.to_tensor(Image.new("RGB", (4, 2))).shape == (3, 2, 4)


def test_all_layouts_give_the_same_images_in_the_same_order(written):
    tree = image_tree()
    for source, part in zip(open_path(written), ("train", "val"), strict=True):
        expected = [(name, pixels) for name in sorted(tree[part]) for _, pixels in sorted(tree[part][name].items())]
        assert source.classes == tuple(sorted(CLASSES))
        assert [source.classes[label] for label in source.labels] == [name for name, _ in expected]
        for i, (_, pixels) in enumerate(expected):
            assert source.image(i).mode == "RGB"
            assert np.array_equal(np.asarray(source.image(i)), pixels)
            assert source.size(i) == (11, 8)


def test_archives_are_read_in_worker_processes(written, tmp_path):
    train, _ = open_path(written)
    plain = eval_transform(8, INFO)
    train.image(0)  # so that the workers inherit an open file
    here, there = (collect(eval_batches(train, range(12), plain, batch_size=2, num_workers=n)) for n in (0, 2))
    assert same_batches(here, there)
    copy = pickle.loads(pickle.dumps(train))
    assert np.array_equal(np.asarray(copy.image(5)), np.asarray(train.image(5)))


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (3, 3), 77).save(tmp_path / part / "a" / "grey.png")
        Image.new("RGBA", (3, 3), (1, 2, 3, 0)).save(tmp_path / part / "a" / "rgba.png")
    train, _ = open_path(tmp_path)
    assert [train.image(i).getpixel((1, 1)) for i in range(2)] == [(77, 77, 77), (1, 2, 3)]


@pytest.mark.parametrize(("layout", "member"), [("folders", "val"), ("tar", "ILSVRC2012_img_val.tar"),
                                                ("zip", "val.zip")])
def test_a_missing_part_is_refused(tmp_path, layout, member):
    path = write_layout(layout, image_tree(), tmp_path)
    shutil.rmtree(tmp_path / member) if layout == "folders" else os.remove(tmp_path / member)
    with pytest.raises(UserError) as error:
        load_data(None, path)
    one_line(error, member, path)


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(UserError) as error:
        load_data(None, str(tmp_path / "nowhere"))
    one_line(error, "nowhere", "train.zip", "ILSVRC2012_img_train.tar", "<path>/train/<class>")
    with pytest.raises(UserError) as error:
        load_data("folder", str(tmp_path))
    one_line(error, tmp_path)
    (tmp_path / "train" / "empty class").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError) as error:
        load_data("folder", str(tmp_path))
    one_line(error, "empty class")
    (tmp_path / "train" / "empty class").rmdir()
    with pytest.raises(UserError, match="no images"):
        load_data("folder", str(tmp_path))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_class_only_in_val_is_refused(tmp_path, layout):
    tree = image_tree()
    tree["val"]["unseen"] = {"0.png": noise(0)}
    path = write_layout(layout, tree, tmp_path)
    with pytest.raises(UserError) as error:
        load_data(None, path)
    one_line(error, "'unseen'", "val")


def test_archives_of_another_shape_are_refused(tmp_path):
    for name in ("train.zip", "val.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a/b/0.png", b"")
            archive.writestr("0.png", b"")
    with pytest.raises(UserError) as error:
        load_data(None, str(tmp_path))
    one_line(error, "train.zip", "'a/b/0.png'")
    (tmp_path / "train.zip").write_bytes(b"not a zip file")
    with pytest.raises(UserError) as error:
        load_data(None, str(tmp_path))
    one_line(error, "train.zip")
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).write_bytes(b"not a tar file" * 100)
    with pytest.raises(UserError) as error:
        load_data(None, str(tmp_path))
    one_line(error, "ILSVRC2012_img_train.tar")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_image_is_named(tmp_path, num_workers):
    path = write_layout("folders", image_tree(), tmp_path)
    damaged = tmp_path / "train" / "ant" / "2.PNG"
    damaged.write_bytes(damaged.read_bytes()[:150])  # the header is whole, so that the set opens
    train, _ = open_path(path)
    index = train.paths.index(str(damaged))
    with pytest.raises(UserError) as error:
        collect(eval_batches(train, range(12), eval_transform(8, INFO), batch_size=4, num_workers=num_workers))
    one_line(error, damaged)
    damaged.write_bytes(b"")
    with pytest.raises(UserError) as error:
        train.image(index)
    one_line(error, damaged)
    damaged.unlink()
    with pytest.raises(UserError) as error:
        train.image(index)
    one_line(error, damaged)


@pytest.mark.parametrize("layout", ["tar", "zip"])
def test_a_damaged_archive_is_named(tmp_path, layout):
    path = write_layout(layout, image_tree(), tmp_path)
    train, _ = open_path(path)
    name = train.where(4)
    with open(train.path, "r+b") as file:
        file.write(b"\0" * os.path.getsize(train.path))
    with pytest.raises(UserError) as error:
        train.image(4)
    one_line(error, name)
    os.truncate(train.path, 10)
    with pytest.raises(UserError) as error:
        train.image(4)
    one_line(error, name)


def test_a_flipped_byte_in_a_zip_is_noticed(tmp_path):
    # A JPEG with a wrong byte may well decode, to a wrong image; the archive's checksum tells.
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("a/0.ppm", b"P6 2 1 255 abcdef")
        archive.writestr("a/1.ppm", b"P6 2 1 255 ghijkl")
    shutil.copy(tmp_path / "train.zip", tmp_path / "val.zip")
    content = (tmp_path / "train.zip").read_bytes()
    (tmp_path / "train.zip").write_bytes(content.replace(b"ghijkl", b"ghiJkl"))
    train, val = open_path(tmp_path)
    assert train.image(0).getpixel((0, 0)) == (97, 98, 99)
    assert val.image(1).getpixel((1, 0)) == (106, 107, 108)
    with pytest.raises(UserError) as error:
        train.image(1)
    one_line(error, "damaged", "a/1.ppm")


# ---- decoded sets ----

class CountingSource(EncodedSource):
    def __init__(self, count):
        super().__init__(["a"], [0] * count)
        self.reads = 0

    def size(self, index):
        return 20, 10

    def image(self, index):
        self.reads += 1
        return Image.new("RGB", (20, 10), (index, 0, 0))


def test_held_images_are_decoded_once():
    source = CountingSource(9)
    kept = HeldDecoded(source)
    assert source.reads == 0
    for _ in range(3):
        assert [kept.image(i).getpixel((0, 0)) for i in (4, 8)] == [(4, 0, 0), (8, 0, 0)]
    assert source.reads == 2
    kept.prepare(range(9))
    assert source.reads == 9


def test_sets_are_held_up_to_the_cap(monkeypatch):
    source = CountingSource(1000)
    assert held.decoded_bytes(source) == 1000 * 20 * 10 * 3
    monkeypatch.setattr(held, "HOLD_BYTES", 600_000)
    assert isinstance(held.hold_if_small(source), HeldDecoded)
    monkeypatch.setattr(held, "HOLD_BYTES", 599_999)
    assert held.hold_if_small(source) is source


def test_workers_do_not_decode_again(tmp_path):
    data = load_data(None, write_layout("zip", image_tree(), tmp_path))
    arguments = {"batch_size": 5, "seed": 1, "epoch": 0, "num_workers": 2}
    first = collect(train_batches(data, train_transform("default", 16, data.info), **arguments))
    (tmp_path / "train.zip").unlink()
    second = collect(train_batches(data, train_transform("default", 16, data.info), **arguments))
    assert same_batches(first, second)


# ---- data sets by name ----

def test_digits_are_the_default_and_split_by_position():
    from sklearn.datasets import load_digits

    data = load_data()
    digits = load_digits()
    assert data.info.name == "digits"
    assert data.info.classes == tuple("0123456789")
    assert not data.info.hflip
    assert data.info.crop_scale == (0.7, 1.0)
    assert len(data.train) + len(data.valid) == len(digits.target) == 1797
    assert len(data.valid) / 1797 == pytest.approx(0.2, abs=0.005)
    for label in range(10):
        numbers = np.flatnonzero(digits.target == label)
        for source, expected in ((data.valid, numbers[4::5]), (data.train, np.delete(numbers, np.s_[4::5]))):
            pixels = source.pixels[source.labels == label]
            assert np.abs(pixels[..., 0] - digits.images[expected] * 255 / 16).max() <= 0.5
    assert np.array_equal(data.train.pixels[..., 0], data.train.pixels[..., 2])
    assert data.train.image(0).size == (8, 8)
    assert data.train.pixels.max() == 255


@pytest.mark.parametrize(("dataset", "path", "named"), [
    ("imagenot", None, "imagenot"), ("folder", None, "--dataset_path"), ("digits", "somewhere", "somewhere")])
def test_bad_names_are_refused(dataset, path, named):
    with pytest.raises(UserError) as error:
        load_data(dataset, path)
    one_line(error, named)


def test_every_downstream_set_has_its_split():
    assert set(DATASETS) == {"digits", "folder", *torchvision_sets.SPLITS}
    trainval = {name for name, (train, _) in torchvision_sets.SPLITS.items() if train == {"split": "trainval"}}
    assert trainval == {"OxfordIIITPet", "FGVCAircraft"}


def test_cifar_is_read_through_torchvision(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    for file, part, labels in (("train_part", slice(0, 4), [3, 0, 1, 9]), ("test_part", slice(4, 6), [9, 2])):
        (folder / file).write_bytes(pickle.dumps({"data": pixels[part], "labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [["train_part", None]])
    monkeypatch.setattr(cifar, "test_list", [["test_part", None]])
    monkeypatch.setattr(cifar, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    data = load_data("CIFAR10", str(tmp_path))
    assert data.info.num_classes == 10
    assert data.info.hflip
    assert data.train.labels.tolist() == [3, 0, 1, 9]
    assert data.test.labels.tolist() == [9, 2]
    assert np.array_equal(np.asarray(data.test.image(1)), pixels[5].reshape(3, 32, 32).transpose(1, 2, 0))


def test_aircraft_and_pets_are_listed_without_decoding(tmp_path):
    aircraft = tmp_path / "fgvc-aircraft-2013b" / "data"
    (aircraft / "images").mkdir(parents=True)
    (aircraft / "variants.txt").write_text("707-320\nTu-154\n")
    (aircraft / "images_variant_trainval.txt").write_text("0001 Tu-154\n0002 707-320\n")
    (aircraft / "images_variant_test.txt").write_text("0003 Tu-154\n")
    pets = tmp_path / "oxford-iiit-pet"
    (pets / "annotations").mkdir(parents=True)
    (pets / "images").mkdir()
    (pets / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_7 2 2 1\n")
    (pets / "annotations" / "test.txt").write_text("beagle_9 2 2 1\n")
    for path in (aircraft / "images" / "0003.jpg", pets / "images" / "beagle_9.jpg"):
        Image.new("RGB", (6, 5), (200, 10, 10)).save(path)
    for name, labels in (("FGVCAircraft", [1, 0]), ("OxfordIIITPet", [0, 1])):
        train, test = torchvision_sets.open_torchvision(name, str(tmp_path))
        assert train.labels.tolist() == labels
        assert test.labels.tolist() == [1]
        assert test.image(0).size == (6, 5)
        assert len(train.classes) == 2


def test_a_failing_download_says_where_the_files_belong(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR100, "download", fail)
    with pytest.raises(UserError) as error:
        load_data("CIFAR100", str(tmp_path / "here"))
    one_line(error, "CIFAR100", tmp_path / "here", "no route to host")


# ---- splits ----

@pytest.mark.parametrize("valid_size", [0, -1, None])
def test_without_a_size_the_official_set_validates(written, valid_size):
    data = load_data(None, written, valid_size)
    assert data.train_indices.tolist() == list(range(12))
    assert data.valid is data.test
    assert data.valid_indices.tolist() == data.test_indices.tolist() == list(range(4))


def test_validation_images_are_cut_off_the_training_set(written):
    data = load_data(None, written, valid_size=5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2147483647)).tolist()
    assert data.valid is data.train
    assert data.valid_indices.tolist() == order[:5]
    assert sorted(data.train_indices.tolist()) == sorted(order[5:])
    assert data.test_indices.tolist() == list(range(4))
    assert data.test is not data.train


def test_a_split_that_leaves_nothing_is_refused(written):
    assert len(load_data(None, written, valid_size=11).train_indices) == 1
    with pytest.raises(UserError) as error:
        load_data(None, written, valid_size=12)
    one_line(error, "12", "0 to 11")


# ---- transforms ----

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


@pytest.mark.parametrize("augment", ["default", "auto_augment_tf"])
def test_training_transform_depends_on_the_generator_alone(augment):
    image = Image.fromarray(noise(1, (60, 50)))
    transform = train_transform(augment, 24, INFO)
    results = [[transform(image, np.random.default_rng(seed)) for seed in range(6)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not any(torch.equal(results[0][0], other) for other in results[0][1:])


def test_auto_augment_adds_to_the_same_crop_and_flip():
    image = Image.fromarray(noise(1, (60, 50)))
    plain, augmented = (train_transform(name, 24, INFO) for name in ("default", "auto_augment_tf"))
    equal = [torch.equal(plain(image, np.random.default_rng(s)), augmented(image, np.random.default_rng(s)))
             for s in range(60)]
    assert 0 < sum(equal) < 30  # some sub-policies draw neither of their operations


def test_unknown_augmentation_is_refused():
    with pytest.raises(UserError) as error:
        train_transform("randaugment", 24, INFO)
    one_line(error, "randaugment", "default, auto_augment_tf")


# ---- loading ----

@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 60), world_size=st.integers(1, 5), batch_size=st.integers(1, 17), epoch=st.integers(0, 3))
def test_training_ranks_cover_the_epoch_with_equal_steps(count, world_size, batch_size, epoch):
    data = numbers_data(64, np.arange(64)[::-1][:count])
    ranks = [train_batches(data, show_draw, batch_size=batch_size, seed=1, epoch=epoch, rank=rank,
                           world_size=world_size) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {math.ceil(math.ceil(count / world_size) / batch_size)}
    seen = []
    for batches in ranks:
        found = collect(batches)
        assert len(found) == len(batches)
        seen += [int(value) for images, _ in found for value in images[:, 0]]
    assert set(seen) == set(data.train_indices.tolist())
    assert len(seen) == world_size * math.ceil(count / world_size)
    assert max(seen.count(value) for value in set(seen)) <= math.ceil(world_size / count) + 1


@settings(deadline=None, max_examples=60)
@given(indices=st.lists(st.integers(0, 63), unique=True, max_size=60), world_size=st.integers(1, 5),
       batch_size=st.integers(1, 17))
def test_evaluation_ranks_see_every_image_exactly_once(indices, world_size, batch_size):
    source = numbers_source(64)
    seen = []
    for rank in range(world_size):
        batches = eval_batches(source, indices, show_draw, batch_size=batch_size, rank=rank, world_size=world_size)
        found = collect(batches)
        assert len(found) == len(batches)
        here = [int(value) for images, _ in found for value in images[:, 0]]
        assert here == indices[rank::world_size]
        assert [int(label) for _, labels in found for label in labels] == [value % 7 for value in here]
        seen += here
    assert sorted(seen) == sorted(indices)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_yields_the_batches_of_the_uninterrupted_one(num_workers):
    data = numbers_data(50)
    arguments = {"batch_size": 6, "seed": 3, "epoch": 2, "rank": 1, "world_size": 2}
    whole = collect(train_batches(data, show_draw, **arguments))
    assert len(whole) == 5
    for start in range(6):
        resumed = train_batches(data, show_draw, start_step=start, num_workers=num_workers, **arguments)
        assert len(resumed) == 5
        assert same_batches(collect(resumed), whole[start:])
    with pytest.raises(UserError) as error:
        train_batches(data, show_draw, start_step=6, **arguments)
    one_line(error, "start step 6", "0 to 5")


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    data = numbers_data(40)

    def draws(**arguments):
        world_size = arguments.get("world_size", 1)
        return {int(number): float(draw) for rank in range(world_size)
                for images, _ in train_batches(data, show_draw, rank=rank, **arguments) for number, draw in images}

    base = draws(batch_size=8, seed=5, epoch=1)
    assert base == draws(batch_size=3, seed=5, epoch=1, world_size=4)
    assert len(set(base.values())) == 40
    for other in (draws(batch_size=8, seed=5, epoch=2), draws(batch_size=8, seed=6, epoch=1)):
        assert not set(base.values()) & set(other.values())


def test_order_changes_with_seed_and_epoch():
    data = numbers_data(40)
    orders = {tuple(torch.cat([images[:, 0] for images, _ in train_batches(data, show_draw, batch_size=40, seed=seed,
                                                                           epoch=epoch)]).tolist())
              for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(40)) != list(order) for order in orders)


def test_workers_give_equal_tensors():
    data = load_data()
    transform = train_transform("auto_augment_tf", 16, data.info)
    arguments = {"batch_size": 16, "seed": 0, "epoch": 1, "start_step": 84}
    here, there = (collect(train_batches(data, transform, num_workers=n, **arguments)) for n in (0, 2))
    assert same_batches(here, there)
    images, labels = here[0]
    assert images.shape == (16, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == there[0][1].tolist()


def test_drop_last_leaves_whole_batches():
    data = numbers_data(20)
    sizes = [len(labels) for _, labels in train_batches(data, show_draw, batch_size=6, seed=0, epoch=0)]
    assert sizes == [6, 6, 6, 2]
    whole = train_batches(data, show_draw, batch_size=6, seed=0, epoch=0, drop_last=True)
    assert len(whole) == 3
    assert [len(labels) for _, labels in whole] == [6, 6, 6]
    with pytest.raises(UserError) as error:
        train_batches(data, show_draw, batch_size=11, seed=0, epoch=0, world_size=2, drop_last=True)
    one_line(error, "11", "1 to 10")


def test_loading_leaves_the_global_generators_alone():
    torch.manual_seed(7)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    collect(train_batches(numbers_data(10), show_draw, batch_size=4, seed=0, epoch=0))
    collect(eval_batches(numbers_source(10), range(10), show_draw, batch_size=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


# ---- real images ----

@pytest.mark.skipif(not (REAL_CIFAR / "train.zip").exists(), reason="the CIFAR-10 zips are not beside this repository")
def test_real_cifar10_zips():
    data = load_data(None, str(REAL_CIFAR), valid_size=1000)
    assert data.info.num_classes == 10
    assert "airplane" in data.info.classes
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert isinstance(data.train, HeldDecoded)
    assert len(data.train_indices) == 49000
    with zipfile.ZipFile(REAL_CIFAR / "train.zip") as archive, archive.open("train/cat/0007.jpg") as file:
        expected = np.asarray(Image.open(file).convert("RGB"))
    index = int(np.flatnonzero(data.train.labels == data.info.classes.index("cat"))[7])
    assert np.array_equal(np.asarray(data.train.image(index)), expected)
    images, labels = next(iter(eval_batches(data.valid, data.valid_indices, eval_transform(32, data.info),
                                            batch_size=100)))
    assert images.shape == (100, 3, 32, 32)
    assert len(set(labels.tolist())) == 10
    assert abs(float(images.mean())) < 0.5  # the normalisation suits natural images
