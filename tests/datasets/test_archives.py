"""Images in tar and zip files, also in damaged and hostile ones."""

import io
import os
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from image_trees import (
    INFO,
    collect,
    image_tree,
    one_line,
    same_batches,
    write_layout,
)
from PIL import Image

from modules.datasets import archives
from modules.datasets.build import load_data
from modules.datasets.folder import open_path
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.utils.errors import UserError


def test_archives_are_read_in_worker_processes(written, tmp_path):
    train, _ = open_path(written)
    plain = eval_transform(8, INFO)
    train.image(0)  # so that the workers inherit an open file
    here, there = (collect(eval_batches(train, range(12), plain, batch_size=2, num_workers=n)) for n in (0, 2))
    assert same_batches(here, there)
    copy = pickle.loads(pickle.dumps(train))
    assert np.array_equal(np.asarray(copy.image(5)), np.asarray(train.image(5)))


def test_archives_of_another_shape_are_refused(tmp_path):
    for name in ("train.zip", "val.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a/b/0.png", b"")
            archive.writestr("0.png", b"")
    with pytest.raises(UserError) as error:
        load_data(None, str(tmp_path))
    one_line(error, "train.zip", "'0.png'")
    (tmp_path / "train.zip").write_bytes(b"not a zip file")
    with pytest.raises(UserError) as error:
        load_data(None, str(tmp_path))
    one_line(error, "train.zip")
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).write_bytes(b"not a tar file" * 100)
    with pytest.raises(UserError) as error:
        load_data(None, str(tmp_path))
    one_line(error, "ILSVRC2012_img_train.tar")


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


# ---- hostile and damaged archives ----

def picture(value=7):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path, *names, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, picture())
    return str(path)


def add(archive, name, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(10_001))
    with pytest.raises(UserError) as error:
        archives.open_zip(str(tmp_path / "x.zip"))
    one_line(error, "a/0.png", "10001", "10000")


@pytest.mark.parametrize("stated", [100, 3_000_001])
def test_a_member_is_unpacked_no_further_than_its_directory_states(tmp_path, stated):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(3_000_000))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 3_000_000), struct.pack("<I", stated)))
    source = archives.open_zip(str(path))
    tracemalloc.start()
    with pytest.raises(UserError) as error:
        source.image(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one_line(error, "damaged", "a/0.png")
    if stated == 100:
        assert peak < 100_000


@pytest.mark.parametrize("offset", [b"\xff\xff\xff\x7f", b"\xf0\xff\xff\xff"])
def test_a_zip_whose_directory_points_outside_is_refused(tmp_path, offset):
    path = tmp_path / "x.zip"
    write_zip(path, "a/0.png")
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 42:entry + 46] = offset
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        archives.open_zip(str(path))
    one_line(error, "x.zip", "damaged")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_tables_of_contents_give_one_line(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        write_zip(path, "top/a/0.png", "top/b/1.png")
    else:
        with tarfile.open(path, "w") as archive:
            for name in ("top/a/0.png", "top/b/1.png"):
                add(archive, name, picture())
    whole, opened = path.read_bytes(), archives.open_zip if kind == "zip" else archives.open_tar
    table = range(whole.index(b"PK\x01\x02"), len(whole)) if kind == "zip" else range(512)
    rng, refused = np.random.default_rng(0), []
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.choice(table, 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            source = opened(str(path))
            for index in range(len(source)):
                source.image(index)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(path) in message and "\n" not in message for message in refused)


def test_a_damaged_tar_header_is_not_the_end(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(4):
            add(archive, f"a/{i}.png", picture())
    content = bytearray(path.read_bytes())
    content[2 * 1024 + 3] ^= 1  # in the header of the third member: its checksum no longer holds
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        archives.open_tar(str(path))
    one_line(error, "x.tar", "damaged at byte 2048")


@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_a_tar_file_cut_after_a_member_is_damaged(tmp_path, left):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(4):
            add(archive, f"a/{i}.png", picture())
    os.truncate(path, 1024 * left)  # a header and a block of content each
    with pytest.raises(UserError) as error:
        archives.open_tar(str(path))
    one_line(error, "x.tar", f"damaged at byte {1024 * left}")


def test_tar_members_that_are_no_plain_files_are_passed_over_and_said(tmp_path, capsys):
    path = str(tmp_path / "x.tar")
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "./a/0.png", picture())
        add(archive, "./b/deeper/1.png", picture(9))
        add(archive, "./b/link.png", type=tarfile.SYMTYPE, linkname="../a/0.png")
        add(archive, "./b/again.png", type=tarfile.LNKTYPE, linkname="./a/0.png")
        add(archive, "./b/device.png", type=tarfile.CHRTYPE)
        add(archive, "./b/notes.txt", b"text")
        add(archive, "stray.png", picture())
    source = archives.open_tar(path)
    assert source.classes == ("a", "b")
    assert [source.image(i).getpixel((0, 0))[0] for i in range(2)] == [7, 9]
    said = capsys.readouterr().err
    assert "5 files passed over" in said
    assert all(part in said for part in ("3 links, devices or sparse files", "1 .txt", "1 outside of class folders"))


def test_tar_members_of_gigabytes_are_refused(tmp_path):
    with open(tmp_path / "x.tar", "wb") as file:
        member = tarfile.TarInfo("a/0.png")
        member.size = 3 * 2**30
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)  # a hole, so no space is taken
    with pytest.raises(UserError) as error:
        archives.open_tar(str(tmp_path / "x.tar"))
    one_line(error, "a/0.png", 3 * 2**30)


@pytest.mark.parametrize("opened", [archives.open_zip, archives.open_tar])
def test_a_folder_for_an_archive_is_refused(tmp_path, opened):
    with pytest.raises(UserError) as error:
        opened(str(tmp_path))
    one_line(error, tmp_path, "a folder")


def test_a_zip_that_is_encrypted_or_of_an_unusual_compression_is_refused(tmp_path):
    for name, method, encrypted in (("bzip2", zipfile.ZIP_BZIP2, 0), ("secret", zipfile.ZIP_STORED, 1)):
        path = write_zip(tmp_path / f"{name}.zip", "a/0.png", f"a/{name}.png", method=method)
        content = bytearray((tmp_path / f"{name}.zip").read_bytes())
        content[content.rfind(b"PK\x01\x02") + 8] |= encrypted  # in the directory, of the last member
        (tmp_path / f"{name}.zip").write_bytes(content)
        with pytest.raises(UserError) as error:
            archives.open_zip(path)
        one_line(error, "a/secret.png" if encrypted else "a/0.png", "encrypted or of an unusual compression")
