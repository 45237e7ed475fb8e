"""Data sets by name and path, their splits, and the real set at hand."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from image_trees import one_line
from PIL import Image

from modules.datasets import torchvision_sets
from modules.datasets.build import DATASETS, load_data
from modules.datasets.embedded import EMBEDDED
from modules.datasets.held import HeldDecoded
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.torchvision_compat import import_torchvision

torchvision = import_torchvision()
REAL_CIFAR = REPOSITORY.parent / "shared" / "data" / "cifar10"


def test_digits_are_split_by_position():
    from sklearn.datasets import load_digits

    data = load_data("digits")
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
    ("imagenot", None, "imagenot"), (None, None, "--dataset_path"), ("", "", "digits"),
    ("folder", None, "--dataset_path"), ("digits", "somewhere", "somewhere")])
def test_bad_names_are_refused(dataset, path, named):
    with pytest.raises(UserError) as error:
        load_data(dataset, path)
    one_line(error, named)


def test_every_downstream_set_has_its_split():
    assert set(DATASETS) == {*EMBEDDED, "folder", *torchvision_sets.SPLITS}
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
