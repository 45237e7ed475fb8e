"""Files that are either whole or absent, and the record kept beside each artefact."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def is_file(path: str | Path) -> bool:
    """Whether `path` is that of a regular file. It may be any text: one that no file can be called is not."""
    return os.path.isfile(path)  # False too for too long a name, and for one with a NUL


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fault_of_file(path: str | Path) -> str:
    """The reason why `path` is no regular file, for a message: "is a folder", "is no regular file" or "does not
    exist"; "" if it is one."""
    if is_file(path):
        return ""
    if os.path.isdir(path):
        return "is a folder"
    return "is no regular file" if os.path.exists(path) else "does not exist"


@contextmanager
def errors_at(path: str | Path):
    """Add the name `path` to an OSError that comes up inside and names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: str | Path, mode: str = "w"):
    """Open a temporary file beside `path`; on success flush it to disk and rename it, on failure remove it.

    The text is UTF-8 on every system. An OSError names its file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with errors_at(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, **({} if "b" in mode else {"newline": "", "encoding": "utf-8"})) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # such as that of the folder: it was reported already
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values) -> None:
    """Write `values` as JSON to be read, with `atomic_write`; what JSON does not know, as text."""
    with atomic_write(path) as file:
        json.dump(values, file, indent=2, default=str)
        file.write("\n")


def append(path: str | Path, content: bytes) -> None:
    """Add `content` to the end of a file and flush it to disk. If that fails, the file stays as it was."""
    path = Path(path)
    with errors_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise


def remove_stale_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`. Only the holder of the folder's lock may call
    this: processes of other machines are taken for gone."""
    for path in folder.glob(".*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def write_manifest(artifact: str | Path, **fields) -> None:
    """Write `<artifact>.json`: command, commit, versions and machine, with `fields` (such as the seed) added."""
    record = {"artifact": Path(artifact).name, "command": command(), "commit": _commit(), "versions": _versions(),
              "machine": machine(), **fields}
    write_json(f"{artifact}.json", record)


def command() -> str:
    """The command line of this process as a shell runs it in the repository, such as
    `python zen_nas/search.py --space cifar`, or with `-m` and the name of a package."""
    path, spec = Path(sys.argv[0]), getattr(sys.modules["__main__"], "__spec__", None)
    if spec:
        program = ["-m", spec.parent if path.name == "__main__.py" else spec.name]
    else:
        path = path.resolve()
        program = [path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name]
    return shlex.join(["python", *program, *sys.argv[1:]])


def machine() -> dict:
    """Processor model, number of usable cores, the instructions that decide int8 speed, operating system."""
    model, flags = platform.processor(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            if key.strip() == "flags":
                flags = value
    except OSError:
        flags = ""
    int8 = [f for f in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if f in flags.split()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "int8": int8, "system": f"{platform.system()} {platform.machine()}"}


def _versions() -> dict:
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "lightgbm"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
