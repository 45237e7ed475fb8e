"""The end of a script: one line and a status after an act of the user, the system or the reader of the output."""
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch

from modules.utils.cli import run
from modules.utils.csv_files import read_records
from modules.utils.errors import UserError, first_line
from modules.utils.figures import figure_of
from modules.utils.files import REPOSITORY, append, atomic_write, write_manifest
from modules.utils.results import append_row


def ends(body, capsys):
    with pytest.raises(SystemExit) as ended:
        run(body)
    return ended.value.code, capsys.readouterr().err


def raising(error):
    def body():
        raise error
    return body


@pytest.mark.parametrize(("error", "status", "words"), [
    (UserError("two\nlines"), 2, "error: two lines"), (KeyboardInterrupt(), 130, "interrupted"),
    (OSError(errno.ENOSPC, "No space left on device", "out/a"), 2, "error: 'out/a': No space left on device"),
    (OSError(errno.EROFS, "Read-only file system", "out/a"), 2, "Read-only"),
    (TimeoutError("timed out"), 2, "error: timed out"), (OSError(), 2, "error: OSError")])
def test_one_line_and_status(error, status, words, capsys):
    code, said = ends(raising(error), capsys)
    assert (code, said.count("\n")) == (status, 1)
    assert words in said


@pytest.mark.parametrize("where", ["file/a", "file/below/a", "folder"])
def test_blocked_paths_are_named(tmp_path, capsys, where):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()

    def body():
        with atomic_write(tmp_path / where) as file:
            file.write("new")

    code, said = ends(body, capsys)
    assert (code, said.count("\n")) == (2, 1)
    assert str(tmp_path / where.split("/")[0]) in said
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("allocate", [np.empty, torch.empty])
def test_a_lack_of_memory_is_one_line(allocate, capsys):
    code, said = ends(lambda: allocate(10 ** 15), capsys)  # more than processors can address
    assert (code, said.count("\n")) == (2, 1)
    assert re.search(r"error: out of memory \(tried to allocate [\d.]+ \w+\)", said)


def test_bugs_keep_their_traceback():
    with pytest.raises(RuntimeError, match="size of tensor"):
        run(lambda: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize(("command", "name"), [
    (("-m", "modules.latency.profile"), "python -m modules.latency.profile"),
    (("eval_supernet.py",), "eval_supernet.py")])
def test_the_command_is_named_as_the_user_calls_it(command, name):
    done = subprocess.run([sys.executable, *command, "--nope", "--superspace", "x", "--output", "x"], cwd=REPOSITORY,
                          text=True, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: error: ")
    assert len(done.stderr.splitlines()) == 1


def python(body, **options):
    code = f"from modules.utils.cli import run\ndef main():\n {body}\nrun(main)"
    return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, **options)


def test_reader_that_goes_away_is_no_error():
    process = python("[print('x' * 1000) for _ in range(1000)]", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        process = python("print('x')", stdout=full)
        said = process.stderr.read()
    assert process.wait() == 2
    assert "error: No space left on device" in said.splitlines()[0]
    assert "Traceback" not in said


def test_rows_that_do_not_fit_leave_the_table_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    append_row(path, {"a": 1})
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left") as error:
        append_row(path, {"a": 2})
    assert error.value.filename == str(path)
    assert path.read_bytes() == before


def test_rows_follow_a_last_line_without_its_end(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\nx,1")  # as some editors save it
    append_row(path, {"a": "y", "b": 2})
    append_row(path, {"a": "z", "b": 3})
    assert [(row["a"], row["b"]) for _, row in read_records(path, "table", ())] == [("x", "1"), ("y", "2"), ("z", "3")]


@pytest.mark.parametrize(("content", "words"), [
    (b"a;b\nx;1\n", "has ';' between its fields"), (b"a\tb\nx\t1\n", r"has '\\t' between its fields"),
    ("a,b\nx,1\n".encode("utf-16"), "is UTF-16"), ("a\tb\nx\t1\n".encode("utf-16"), "is UTF-16"),
    (b"a,c\nx,1\n", "has the columns a,c; expected a,b")])
def test_tables_that_a_spreadsheet_saved_stay_as_they_are(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"t\.csv' {words}.*Move it away"):
        append_row(path, {"a": "y", "b": 2})
    assert path.read_bytes() == content


@pytest.mark.parametrize(("path", "module", "words"), [
    ("zen_nas/score.py", "", ["zen_nas/score.py"]),
    ("modules/pipeline/__main__.py", "modules.pipeline.__main__", ["-m", "modules.pipeline"]),
    ("modules/utils/files.py", "modules.utils.files", ["-m", "modules.utils.files"])])
def test_a_manifest_holds_the_command_that_runs_again(tmp_path, monkeypatch, path, module, words):
    """Of a script, a package and a module, in a shell: with quotes where they are needed, and no place of the machine's
    own."""
    options = ["--subnet_choice", "d1#1_k3", "--pick", "score<=0.3", "--network", ""]
    monkeypatch.setattr(sys, "argv", [str(REPOSITORY / path), *options])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(module, None) if module else None)
    write_manifest(tmp_path / "a.pth")
    command = json.loads((tmp_path / "a.pth.json").read_text())["command"]
    assert shlex.split(command, comments=True) == ["python", *words, *options]


def test_a_figure_does_not_replace_its_table():
    assert figure_of("a/table.csv").as_posix() == "a/table.png"
    with pytest.raises(UserError, match=r"'a/table\.png' is the name of the figure"):
        figure_of("a/table.png")


def test_append_adds(tmp_path):
    append(tmp_path / "below" / "t", b"a")
    append(tmp_path / "below" / "t", b"b")
    assert (tmp_path / "below" / "t").read_bytes() == b"ab"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_goes_on_with_its_own_line_ends(tmp_path, end):
    path = tmp_path / "t.csv"
    path.write_bytes(f"a,b{end}x,1{end}".encode())
    append_row(path, {"a": "y", "b": 2})
    assert path.read_bytes() == f"a,b{end}x,1{end}y,2{end}".encode()


def test_an_error_that_says_nothing_is_told_by_its_type():
    errors = ValueError("\n a\nb"), ValueError(), KeyError("c")
    assert [first_line(error) for error in errors] == ["a", "ValueError", "'c'"]
