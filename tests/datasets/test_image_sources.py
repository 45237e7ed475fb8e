"""Folders and layouts: which images are found, in which order, with which labels; images held decoded."""

import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from image_trees import (
    CLASSES,
    INFO,
    LAYOUTS,
    collect,
    image_tree,
    noise,
    one_line,
    same_batches,
    write_layout,
)
from PIL import Image

from modules.datasets import held
from modules.datasets.archives import open_tar, open_zip
from modules.datasets.build import load_data
from modules.datasets.decode import Header
from modules.datasets.files import open_class_folders
from modules.datasets.folder import open_path
from modules.datasets.held import HeldDecoded
from modules.datasets.loading import eval_batches, train_batches
from modules.datasets.sources import ArraySource, EncodedSource
from modules.datasets.transforms import eval_transform, train_transform
from modules.utils.errors import UserError
from modules.utils.torchvision_compat import import_torchvision

torchvision = import_torchvision()


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
            assert source.header(i) == (11, 8, "RGB")


def test_the_digest_tells_images_apart_and_not_their_storage(tmp_path):
    digests = []
    for layout in LAYOUTS:
        (tmp_path / layout).mkdir()
        write_layout(layout, image_tree(), tmp_path / layout)
        source = open_path(str(tmp_path / layout))[0]
        digests += [source.digest(), HeldDecoded(source).digest()]
    assert len(set(digests)) == 1
    path = open_path(str(tmp_path / "folders"))[0].paths[3]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    source = open_path(str(tmp_path / "folders"))[0]
    assert source.digest() not in digests
    assert ArraySource(noise(0), "a", [0]).digest() != ArraySource(noise(1), "a", [0]).digest()


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (3, 3), 77).save(tmp_path / part / "a" / "grey.png")
        Image.new("RGBA", (3, 3), (1, 2, 3, 0)).save(tmp_path / part / "a" / "rgba.png")
    train, _ = open_path(tmp_path)
    assert [train.image(i).getpixel((1, 1)) for i in range(2)] == [(77, 77, 77), (255, 255, 255)]


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


class CountingSource(EncodedSource):
    def __init__(self, count):
        super().__init__(["a"], [0] * count)
        self.reads = 0

    def header(self, index):
        return Header(20, 10, "RGB")

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
    assert held.decoded_bytes(source, held.sample_headers(source)) == 1000 * 20 * 10 * 3
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


# ---- folders in folders, and files that are passed over ----

def write_images(root, *names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 3), i).save(root / name, "PNG")


NESTED = ("b/z.png", "b/sub/a.png", "b/sub-x/0.PNG", "b/sub/deeper/1.png", "a/k.png", "a/s.png", "a/s/0.png")


def test_folders_are_read_as_torchvision_reads_them(tmp_path):
    write_images(tmp_path, *NESTED)
    theirs = torchvision.datasets.ImageFolder(str(tmp_path))
    ours = open_class_folders(str(tmp_path))
    assert ours.classes == tuple(theirs.classes)
    assert list(zip(ours.paths, ours.labels.tolist(), strict=True)) == theirs.samples


@pytest.mark.parametrize("top", ["", "top/"])
def test_archives_have_the_nested_images_of_folders(tmp_path, top):
    write_images(tmp_path / "folder", *NESTED)
    with tarfile.open(tmp_path / "x.tar", "w") as tar, zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for name in NESTED[::-1]:
            tar.add(tmp_path / "folder" / name, top + name)
            packed.write(tmp_path / "folder" / name, top + name)
    sources = [open_class_folders(str(tmp_path / "folder")), open_tar(str(tmp_path / "x.tar")),
               open_zip(str(tmp_path / "x.zip"))]
    shown = [[(source.image(i).getpixel((0, 0)), int(source.labels[i])) for i in range(len(source))]
             for source in sources]
    assert len(shown[0]) == len(NESTED)
    assert shown[0] == shown[1] == shown[2]


def test_what_is_passed_over_is_counted_and_said_once(tmp_path, capsys):
    write_images(tmp_path, "a/0.png", "b/0.png", "a/.hidden.png", ".cache/0.png", "a/.ipynb_checkpoints/0.png",
                 "stray.png")
    for name in ("a/1.heic", "a/2.HEIC", "b/sub", "b/notes.txt", "a/.DS_Store"):
        (tmp_path / name).write_bytes(b"")
    for _ in range(2):
        assert len(open_class_folders(str(tmp_path))) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"6 files passed over in {tmp_path}" in said[0]
    for part in ("2 .heic", "1 without a suffix", "1 .txt", "1 hidden", "1 outside of class folders"):
        assert part in said[0]


def test_nothing_is_said_where_all_is_taken(tmp_path, capsys):
    write_images(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"")
    open_class_folders(str(tmp_path))
    assert capsys.readouterr().err == ""


def test_a_class_folder_without_images_tells_what_is_there(tmp_path):
    write_images(tmp_path, "a/0.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.heic").write_bytes(b"")
    with pytest.raises(UserError) as error:
        open_class_folders(str(tmp_path))
    one_line(error, tmp_path / "b", "1 .heic")


def test_links_are_followed_but_not_in_circles(tmp_path, capsys):
    write_images(tmp_path / "data", "a/0.png", "b/0.png")
    write_images(tmp_path, "elsewhere/1.png", "elsewhere/sub/2.png")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "data" / "b")
    source = open_class_folders(str(tmp_path / "data"))
    assert np.bincount(source.labels).tolist() == [3, 1]
    assert "1 link to a folder above it" in capsys.readouterr().err


def test_a_file_for_the_folder_of_a_part_is_refused(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).write_bytes(b"")
    with pytest.raises(UserError) as error:
        open_path(str(tmp_path))
    one_line(error, tmp_path / "train", "no folder")


# ---- class names ----

def test_accents_may_be_encoded_either_way(tmp_path):
    write_images(tmp_path / "train", "e\u0301tui/0.png", "z/0.png")
    write_images(tmp_path / "val", "\u00e9tui/0.png", "z/0.png")
    train, val = open_path(str(tmp_path))
    assert train.classes == val.classes == ("z", "\u00e9tui")
    write_images(tmp_path / "train", "\u00e9tui/1.png")
    with pytest.raises(UserError) as error:
        open_path(str(tmp_path))
    one_line(error, "\u00e9tui", "twice")


def test_classes_that_differ_in_case_are_two(tmp_path):
    write_images(tmp_path, "Cat/0.png", "cat/0.png")
    assert open_class_folders(str(tmp_path)).classes == ("Cat", "cat")


def test_a_class_name_that_is_no_text_is_refused(tmp_path):
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    Image.new("L", (3, 3)).save(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9/0.png"))
    with pytest.raises(UserError) as error:
        open_class_folders(str(tmp_path))
    one_line(error, "UTF-8", r"caf\udce9")


def test_values_without_a_stated_range_are_said_at_the_start(tmp_path, capsys):
    for part, name in (("train", "a"), ("train", "b"), ("val", "a")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.fromarray(np.eye(4, dtype=np.float32)).save(tmp_path / part / name / "0.tif")
    load_data(None, str(tmp_path))
    said = capsys.readouterr().err
    assert "2 of 2 images looked at hold floating-point numbers" in said


def test_parts_without_classes_serve_where_labels_do_not_count(tmp_path):
    write_images(tmp_path, "train/0.png", "train/1.png", "train/2.png", "val/3.png")
    data = load_data("folder", str(tmp_path), labelled=False)
    assert (len(data.train), len(data.test)) == (3, 1)
    with pytest.raises(UserError, match="no images in"):
        load_data("folder", str(tmp_path))


def test_a_link_to_itself_is_passed_over(tmp_path, capsys):
    write_images(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png", "val/b/3.png")
    for place in ("train/loop", "train/a/loop"):
        os.symlink("loop", tmp_path / place)
    assert len(load_data("folder", str(tmp_path)).train) == 2
    assert "2 files passed over" in capsys.readouterr().err


@pytest.mark.parametrize(("block", "blocks"), [(1800, 3), (1799, 5), (10, 9)])
def test_held_images_share_blocks_of_memory(monkeypatch, block, blocks):
    monkeypatch.setattr(held, "_BLOCK", block)
    kept = HeldDecoded(CountingSource(9))
    arrays = [kept.array(i) for i in (8, 0, 1, 2, 3, 4, 5, 6, 7)]  # of 600 bytes each
    assert [array[0, 0].tolist() for array in arrays] == [[i, 0, 0] for i in (8, 0, 1, 2, 3, 4, 5, 6, 7)]
    assert len({id(array.base) for array in arrays}) == blocks
