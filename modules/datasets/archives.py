"""Images inside a tar or zip file, read in place.

The archive's table of contents is read once. It is kept as plain arrays: 1.3 million entries stay small, and forked
workers share them. Each process opens the archive for itself: an inherited file position would be shared. No member is
read beyond its size in the table, and that size is bounded.
"""
from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from modules.datasets.decode import MAX_BYTES, is_image_name
from modules.datasets.sources import EncodedSource, PassedOver, arrange
from modules.utils.errors import UserError
from modules.utils.files import fault_of_file

TAR_NAMES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_BELOW = "members <class>/<image file>, below one common folder or none"
TAR_LAYOUT = f"{TAR_NAMES[0]} and {TAR_NAMES[1]}, {_BELOW}"
ZIP_NAMES = ("train.zip", "val.zip")
ZIP_LAYOUT = f"{ZIP_NAMES[0]} and {ZIP_NAMES[1]}, {_BELOW}"
_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field
_OUTSIDE = "outside of class folders"


class ArchiveSource(EncodedSource):
    """Images at known places of one file. `members` are tuples: the name, the place, then further numbers of the
    kind."""

    def __init__(self, path: str, members: Sequence[tuple], classes: Iterable[str], labels: Sequence[int]):
        super().__init__(classes, labels)
        self.path = str(path)
        # Arrays, not lists of objects: a worker that touches objects would copy their pages of memory.
        self.names = np.array([member[0].encode("utf-8", "surrogateescape") for member in members])
        self.places = np.array([member[1:] for member in members], dtype=np.int64)
        self._file, self._owner = None, None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None, "_owner": None}

    def where(self, index: int) -> str:
        return f"{self.path}:{bytes(self.names[index]).decode('utf-8', 'surrogateescape')}"

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the archive from `offset` (fewer at its end)."""
        if self._owner != os.getpid():
            self._file, self._owner = open(self.path, "rb"), os.getpid()  # noqa: SIM115  kept open for all reads
        self._file.seek(offset)
        return self._file.read(size)

    def damaged(self, index: int) -> UserError:
        """The error of a member that differs from the table of contents."""
        return UserError(f"damaged archive member {self.where(index)}; allowed: a complete archive (copy it again)")


class TarSource(ArchiveSource):
    """Places are (offset, size)."""

    def read(self, index: int) -> bytes:
        offset, size = self.places[index].tolist()
        data = self.read_at(offset, size)
        if len(data) != size:
            raise self.damaged(index)
        return data


class ZipSource(ArchiveSource):
    """Places are (offset of the local header, compressed size, size, compression method, CRC)."""

    def read(self, index: int) -> bytes:
        offset, packed, size, method, crc = self.places[index].tolist()
        header = self.read_at(offset, _ZIP_LOCAL_HEADER.size)
        if len(header) < _ZIP_LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise self.damaged(index)
        _, name_length, extra_length = _ZIP_LOCAL_HEADER.unpack(header)
        data = self.read_at(offset + _ZIP_LOCAL_HEADER.size + name_length + extra_length, packed)
        try:
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise self.damaged(index) from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise self.damaged(index)
        return data


def open_tar(path: str, classes: Sequence[str] | None = None) -> TarSource:
    """Return the source of a tar file with members `<class>/<file>`, below one common top folder or none.

    Links, devices, sparse files and images outside class folders are passed over.

    Args:
        classes: of the training part, for the other part.

    Raises:
        UserError: no tar file, a damaged one, a compressed one, an image of more than MAX_BYTES.
    """
    members, passed = [], PassedOver(path)
    _check_is_file(path, TAR_LAYOUT)
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                _take_tar_member(member, members, passed)
                archive.members.clear()  # tarfile keeps every member: over a gigabyte for ImageNet
            end = archive.offset
    except Exception as error:  # a damaged header can raise anything
        raise _unreadable(path, error, f"{TAR_LAYOUT}, not compressed") from error
    with open(path, "rb") as file:
        file.seek(end)
        last = file.read(tarfile.BLOCKSIZE)
        if last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header, and the end of a cut file, for the end
            raise UserError(f"archive {path} is damaged at byte {end}; allowed: a complete archive (copy it again)")
    _check_places(path, members)
    found, outside = _by_class(members)
    for name in outside:
        passed.add(name, _OUTSIDE)
    classes, labels, members = arrange(found, path, TAR_LAYOUT, classes)
    passed.say()
    return TarSource(path, members, classes, labels)


def _take_tar_member(member: tarfile.TarInfo, members: list[tuple], passed: PassedOver) -> None:
    image = is_image_name(member.name.rpartition("/")[2])
    if image and member.isreg() and not member.issparse():
        members.append((member.name, member.offset_data, member.size))
    elif not member.isdir():
        passed.add(member.name, "links, devices or sparse files" if image else "")


def open_zip(path: str, classes: Sequence[str] | None = None) -> ZipSource:
    """Return the source of a zip file with members `<class>/<file>`, below one common top folder or none.

    Args:
        classes: of the training part, for the other part.

    Raises:
        UserError: no zip file, a damaged one, an image outside of a class folder, encrypted, of an unusual compression
            or of more than MAX_BYTES.
    """
    _check_is_file(path, ZIP_LAYOUT)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a damaged directory can raise anything
        raise _unreadable(path, error, ZIP_LAYOUT) from error
    members, passed = [], PassedOver(path)
    for entry in entries:
        if not is_image_name(entry.filename.rpartition("/")[2]) or entry.filename.startswith("__MACOSX/"):
            if not entry.is_dir() and not entry.filename.startswith("__MACOSX/"):
                passed.add(entry.filename)
            continue
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise UserError(f"member {entry.filename!r} of {path} is encrypted or of an unusual compression; "
                            "allowed: stored or deflated")
        members.append((entry.filename, entry.header_offset, entry.compress_size, entry.file_size, entry.compress_type,
                        entry.CRC))
    found, outside = _by_class(members)
    for name in outside:
        raise UserError(f"image {name!r} in {path} is not in a class folder; allowed: {ZIP_LAYOUT}")
    _check_places(path, members)
    classes, labels, members = arrange(found, path, ZIP_LAYOUT, classes)
    passed.say()
    return ZipSource(path, members, classes, labels)


def _by_class(members: list[tuple]) -> tuple[list[tuple[str, str, tuple]], list[str]]:
    """(class, name within the class, member) of each member, and the names of those outside of class folders."""
    split = [[part for part in member[0].split("/") if part not in ("", ".")] for member in members]
    outside = [member[0] for parts, member in zip(split, members, strict=True) if len(parts) == 1]
    inside = [(parts, member) for parts, member in zip(split, members, strict=True) if len(parts) > 1]
    common = len({parts[0] for parts, _ in inside}) == 1 and all(len(parts) > 2 for parts, _ in inside)
    return [(parts[common], "/".join(parts[common + 1:]), member) for parts, member in inside], outside


def _check_places(path: str, members: list[tuple]) -> None:
    """UserError for a member (name, offset, stored bytes, unpacked bytes, ...) that is too large or lies outside the
    file `path`."""
    end = os.path.getsize(path)
    for name, offset, *sizes in members:
        if max(sizes[:2]) > MAX_BYTES:
            raise UserError(f"member {name!r} of {path} has {max(sizes[:2])} bytes; allowed in an image: up to "
                            f"{MAX_BYTES}")
        if not 0 <= offset <= offset + sizes[0] <= end:
            raise UserError(f"archive {path} is damaged: member {name!r} does not lie in it; allowed: a complete "
                            "archive (copy it again)")


def _check_is_file(path: str, layout: str) -> None:
    if fault := fault_of_file(path):
        raise UserError(f"{path} {fault}, not an archive; allowed: {layout}")


def _unreadable(path: str, error: Exception, layout: str) -> UserError:
    return UserError(f"cannot read {path} ({' '.join(str(error).split()) or type(error).__name__}); allowed: {layout}")
