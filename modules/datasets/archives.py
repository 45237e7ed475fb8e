"""Images inside a tar or zip file, read where they lie.

The archive's table of contents is read once; it is kept as plain arrays, so that 1.3 million entries stay small and
forked workers share them. Each process opens the archive for itself: an inherited file position would be shared.
"""

import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np

from modules.datasets.sources import EncodedSource, arrange, is_image_name
from modules.utils.errors import UserError

TAR_NAMES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
TAR_LAYOUT = f"{TAR_NAMES[0]} and {TAR_NAMES[1]}, members <top>/<class>/<image file>"
ZIP_NAMES = ("train.zip", "val.zip")
ZIP_LAYOUT = f"{ZIP_NAMES[0]} and {ZIP_NAMES[1]}, members <class>/<image file>, below one common folder or none"
_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field


class ArchiveSource(EncodedSource):
    """Images at known places of one file. `members` are tuples: the name, the place, then what the kind needs."""

    def __init__(self, path, members, classes, labels):
        super().__init__(classes, labels)
        self.path = str(path)
        # Arrays rather than lists of objects: a worker that touches objects would copy the pages they lie in.
        self.names = np.array([os.fsencode(member[0]) for member in members])
        self.places = np.array([member[1:] for member in members], dtype=np.int64)
        self._file, self._owner = None, None

    def __getstate__(self):
        return {**self.__dict__, "_file": None, "_owner": None}

    def where(self, index):
        return f"{self.path}:{os.fsdecode(bytes(self.names[index]))}"

    def read_at(self, offset, size):
        """Return `size` bytes of the archive from `offset` (fewer at its end)."""
        if self._owner != os.getpid():
            self._file, self._owner = open(self.path, "rb"), os.getpid()  # noqa: SIM115  kept open for all reads
        self._file.seek(offset)
        return self._file.read(size)

    def damaged(self, index):
        return UserError(f"damaged archive member {self.where(index)}; allowed: a complete archive (copy it again)")


class TarSource(ArchiveSource):
    """Places are (offset, size)."""

    def read(self, index):
        offset, size = self.places[index].tolist()
        data = self.read_at(offset, size)
        if len(data) != size:
            raise self.damaged(index)
        return data


class ZipSource(ArchiveSource):
    """Places are (offset of the local header, compressed size, compression method, CRC)."""

    def read(self, index):
        offset, size, method, crc = self.places[index].tolist()
        header = self.read_at(offset, _ZIP_LOCAL_HEADER.size)
        if len(header) < _ZIP_LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise self.damaged(index)
        _, name_length, extra_length = _ZIP_LOCAL_HEADER.unpack(header)
        data = self.read_at(offset + _ZIP_LOCAL_HEADER.size + name_length + extra_length, size)
        try:
            data = zlib.decompress(data, -zlib.MAX_WBITS) if method == zipfile.ZIP_DEFLATED else data
        except zlib.error as error:
            raise self.damaged(index) from error
        if zlib.crc32(data) != crc:
            raise self.damaged(index)
        return data


def open_tar(path, classes=None):
    """Return the source of a tar file with members `<top>/<class>/<file>`; members of another depth are passed over."""
    found = []
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                parts = member.name.split("/")
                if member.isfile() and len(parts) == 3 and is_image_name(parts[2]):
                    found.append((parts[1], parts[2], (member.name, member.offset_data, member.size)))
                archive.members.clear()  # tarfile keeps every member, which is over a gigabyte for ImageNet
    except tarfile.TarError as error:
        raise UserError(f"cannot read {path} ({error}); allowed: {TAR_LAYOUT}, not compressed") from error
    classes, labels, members = arrange(found, path, TAR_LAYOUT, classes)
    return TarSource(path, members, classes, labels)


def open_zip(path, classes=None):
    """Return the source of a zip file with members `<class>/<file>`, below one common top folder or none."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename.split("/"), entry) for entry in archive.infolist()]
            if any(entry.header_offset < 0 for _, entry in entries):
                raise zipfile.BadZipFile("a member lies before the beginning of the file")
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"cannot read {path} ({error}); allowed: {ZIP_LAYOUT}") from error
    entries = [(parts, entry) for parts, entry in entries if is_image_name(parts[-1]) and parts[0] != "__MACOSX"]
    if len({parts[0] for parts, _ in entries}) == 1 and all(len(parts) > 2 for parts, _ in entries):
        entries = [(parts[1:], entry) for parts, entry in entries]
    found = []
    for parts, entry in entries:
        if len(parts) != 2:
            raise UserError(f"image {entry.filename!r} in {path} is not in a class folder; allowed: {ZIP_LAYOUT}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise UserError(f"member {entry.filename!r} of {path} is encrypted or of an unusual compression; "
                            "allowed: stored or deflated")
        place = (entry.header_offset, entry.compress_size, entry.compress_type, entry.CRC)
        found.append((*parts, (entry.filename, *place)))
    classes, labels, members = arrange(found, path, ZIP_LAYOUT, classes)
    return ZipSource(path, members, classes, labels)
