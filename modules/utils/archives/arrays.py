"""Archives of numpy arrays (.npz), read within bounds; nothing in them is executed."""
from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from modules.utils.errors import UserError, first_line
from modules.utils.text import MAX_TEXT, read_bytes


def read_arrays(path: str | Path, what: str, limit: int = 4 * MAX_TEXT) -> dict[str, np.ndarray]:
    """The arrays of the file `path` by name. `what` names the kind of file in a message.

    Raises:
        UserError: a file that cannot be read, is damaged (every checksum is compared), or whose arrays take more than
            `limit` bytes.
    """
    where, name = f"{what} {str(path)!r}", ""
    content = io.BytesIO(read_bytes(path, what))
    try:
        with zipfile.ZipFile(content) as archive:
            _check_sizes(archive, limit, where)
        content.seek(0)
        with np.load(content, allow_pickle=False) as arrays:
            values = {}
            for name in arrays.files:
                values[name] = arrays[name]
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have a dozen ways to say that bytes are damaged
        place = f" in {name!r}" if name else ""
        raise UserError(f"{where} cannot be read{place}: {first_line(error)}") from None
    return values


def _check_sizes(archive: zipfile.ZipFile, limit: int, where: str) -> None:
    """Bound the sizes that members and array headers state, before anything is unpacked."""
    total = sum(member.file_size for member in archive.infolist())
    for member in archive.infolist():
        with archive.open(member) as file:
            if member.filename.endswith(".npy"):
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(file)
                total = max(total, kind.itemsize * int(np.prod(shape, dtype=object)))
    if total > limit:
        raise UserError(f"{where} would take {total} bytes; at most {limit} are read")
