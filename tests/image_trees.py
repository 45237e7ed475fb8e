"""Images written by the tests in every layout, sources of numbered images, and comparisons of batches."""

import shutil
import tarfile
import zipfile

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from modules.datasets.build import Data, DataInfo
from modules.datasets.sources import ArraySource
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD

CLASSES = ("Über", "ant", "zebra crossing")
INFO = DataInfo("test", ("a", "b"), IMAGENET_MEAN, IMAGENET_STD, hflip=True, crop_scale=(0.08, 1.0))
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


def numbers_source(count):
    """Image i is of the colour (i, i, i), its label i % 7."""
    pixels = np.repeat(np.arange(count, dtype=np.uint8)[:, None, None, None], 3, axis=3)
    return ArraySource(pixels, map(str, range(7)), np.arange(count) % 7)


def numbers_data(count, train_indices=None):
    source = numbers_source(count)
    indices = np.arange(count) if train_indices is None else np.asarray(train_indices)
    return Data(INFO, source, indices, source, np.arange(count), source, np.arange(count))


def show_draw(image, rng):
    """A transform that gives the image's number and the first draw of its generator."""
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


def digit_folder(folder, train, val):
    """The first digits of scikit-learn as images of 48 pixels in `folder`/train and `folder`/val; `folder`."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:train + val], digits.target, strict=False)):
        path = folder / ("val" if i < val else "train") / f"class{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).convert("RGB").resize((48, 48)).save(path)
    return folder
