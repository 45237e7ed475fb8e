"""A run's folder: locked, refused, continued, started afresh; damaged states; left-overs of killed processes."""
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processes import free_port

from modules.utils.errors import UserError
from modules.utils.files import atomic_write
from modules.utils.runs import Run, open_all

HOLDER = """
import sys, time
from modules.utils.runs import Run
with Run(sys.argv[1], resume=False, overwrite=False, option="--output_dir"):
    print("held", flush=True)
    if sys.argv[2:]:
        from modules.utils.files import atomic_write
        with atomic_write(sys.argv[2]) as file:
            file.write("half")
            file.flush()
            print("half", flush=True)
            time.sleep(60)
    time.sleep(60)
"""


def open_run(path, *, resume=False, overwrite=False, **kwargs):
    return Run(path, resume=resume, overwrite=overwrite, option="--output_dir", **kwargs)


@pytest.fixture
def hold():
    """Starts a process that holds the folder of a state file; waits until it says `word`."""
    started = []

    def start(word, *args):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, *map(str, args)], stdout=subprocess.PIPE, text=True,
                                   cwd=Path(__file__).parents[2])
        started.append(process)
        while process.stdout.readline().strip() != word:
            assert process.poll() is None
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_second_run_is_refused_with_the_first_ones_pid_and_host(tmp_path, hold):
    first = hold("held", tmp_path / "state.json")
    with pytest.raises(UserError) as refusal, open_run(tmp_path / "state.json", overwrite=True):
        pass
    assert f"process {first.pid} on {socket.gethostname()} since 20" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    first.kill()
    first.wait()
    with open_run(tmp_path / "state.json"):  # a killed process holds nothing
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_process_are_refused_too(tmp_path):
    with open_run(tmp_path / "state.json"):
        with pytest.raises(UserError, match=f"process {os.getpid()} "), open_run(tmp_path / "state.json"):
            pass
        with pytest.raises(UserError, match="in use"), open_run(tmp_path / "other.pth"):  # the folder is what is locked
            pass
    with open_run(tmp_path / "state.json"):
        pass


def test_forked_children_of_a_killed_process_hold_nothing(tmp_path):
    script = ("import os, sys, time\nfrom modules.utils.runs import Run\n"
              "with Run(sys.argv[1], resume=False, overwrite=False, option='-o'):\n"
              "    child = os.fork()\n    if child: print(child, flush=True)\n    time.sleep(60)\n")
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "state.json"], stdout=subprocess.PIPE,
                               text=True, cwd=Path(__file__).parents[2])
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)
        with open_run(tmp_path / "state.json"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_lock_file_that_was_replaced_is_no_lock(tmp_path, monkeypatch):
    """The holder may remove its file between another's opening and locking of it."""
    from modules.utils import processes

    calls, lock = [], processes.FolderLock._lock

    def remove_first(self, file):
        if not calls:
            self.path.unlink()
        calls.append(file)
        return lock(self, file)

    monkeypatch.setattr(processes.FolderLock, "_lock", remove_first)
    with open_run(tmp_path / "state.json"):
        assert len(calls) == 2
        assert (tmp_path / ".lock").exists()


def test_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    from modules.utils import processes

    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(processes.fcntl, "lockf", unsupported)
    with open_run(tmp_path / "state.json"):
        pass
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


def test_a_set_of_runs_says_in_one_line_what_starts(tmp_path, capsys):
    paths = [tmp_path / name / "state.json" for name in "abcd"]
    with open_run(paths[0], resume=True) as run:
        run.write_state({}, {})
    capsys.readouterr()
    with open_all([open_run(path, resume=True) for path in paths]):
        assert capsys.readouterr().out == f"--resume: no {str(paths[1])!r} (and 2 more of 4) yet, starting\n"
        assert all((path.parent / ".lock").exists() for path in paths)
    with pytest.raises(UserError, match="exists; continue it"), open_all([open_run(path) for path in paths[::-1]]):
        pass
    with open_all([open_run(path) for path in paths[1:]]):  # no folder is locked any more, and nothing is said
        assert capsys.readouterr().out == ""


def test_what_is_there_decides(tmp_path, capsys):
    path = tmp_path / "new" / "run" / "state.json"
    with open_run(path, resume=True) as run:
        assert (run.found, run.continues) == (False, False)
        assert capsys.readouterr().out == f"--resume: no {str(path)!r} yet, starting\n"
        run.write_state({}, {"done": 1})
    with pytest.raises(UserError, match="exists; continue it with --resume, replace it with --overwrite, or give "
                                        "another --output_dir"), open_run(path):
        pass
    with open_run(path, overwrite=True) as run:
        assert (run.found, run.continues) == (True, False)
    with open_run(path, resume=True) as run:
        assert (run.found, run.continues) == (True, True)
        assert run.read_state({})["done"] == 1
    with pytest.raises(UserError, match="give one of them"), open_run(path, resume=True, overwrite=True):
        pass
    assert capsys.readouterr().out == ""
    assert [p.name for p in path.parent.iterdir()] == ["state.json"]


def test_refused_run_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="bad setting"), open_run(tmp_path / "a" / "b" / "state.json"):
        raise UserError("bad setting")
    assert list(tmp_path.iterdir()) == []


def test_starting_afresh_removes_the_earlier_runs_own_files_once_nothing_is_refused(tmp_path):
    own = {"state.json": "{}", "train.log": "old\n", "table_1.csv": "old\n"}
    for name, text in own.items() | {("notes.txt", "mine")}:
        (tmp_path / name).write_text(text)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.1").write_text("old")
    names = {"logs": ("train.log", "tensorboard"), "files": ("table_*.csv",)}
    with pytest.raises(UserError, match="refused"), open_run(tmp_path / "state.json", overwrite=True, **names):
        raise UserError("refused")
    assert {name: (tmp_path / name).read_text() for name in own} == own
    with open_run(tmp_path / "state.json", overwrite=True, **names) as run:
        run.begin()
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "notes.txt"]


def test_continued_run_cuts_its_logs_back_to_the_state(tmp_path):
    path, log, events = tmp_path / "state.json", tmp_path / "train.log", tmp_path / "tensorboard" / "events.1"
    names = {"logs": ("train.log", "tensorboard"), "files": ("best.csv",)}
    events.parent.mkdir()
    with open_run(path, **names) as run:
        for file in (log, events, tmp_path / "best.csv"):
            file.write_text("1\n2\n")
        run.write_state({}, {"logs": run.log_sizes()})
        for file in (log, tmp_path / "best.csv", events.with_name("events.2")):
            file.write_text("1\n2\n3\n")  # then the process is killed
    with open_run(path, resume=True, **names) as run:
        run.begin(run.read_state({})["logs"])
    assert [file.read_text() for file in (log, events, events.with_name("events.2"))] == ["1\n2\n", "1\n2\n", ""]
    assert (tmp_path / "best.csv").read_text() == "1\n2\n3\n"  # not a log


def test_other_settings_are_named_with_both_values(tmp_path):
    run = open_run(tmp_path / "state.json")
    before = {"seed": 1, "sizes": (1, 2), "limits": {"ms": 5.0, "flops": None}}
    run.check_same(before, before | {"sizes": [1, 2], "new": 7})
    run.check_same(before, {"seed": 2}, free={"seed"})
    for now, message in (({"seed": 2}, "seed was 1 when .*state.json' was written and is 2 now"),
                         ({"sizes": (1, 3)}, r"sizes was \[1, 2\] .* is \[1, 3\]"),
                         ({"limits": {"ms": 6.0}}, "limits.ms was 5.0 .* is 6.0")):
        with pytest.raises(UserError, match=message):
            run.check_same(before, now)


def read_entries(path):
    with open_run(path, resume=True) as run:
        state = run.read_state({"seed": 1})
        with run.reading():
            return [float(value) for value in state["entries"]]


@pytest.mark.parametrize(("content", "why"), [
    (b"", "Expecting value"), (b'{"identity": {"seed": 1}', "delimiter"), (b"\xc3(", "not UTF-8"),
    (b"[" * 100_000, "nested too deeply"), (b"[]", "expected an object"), (b"{}", "no 'identity'"),
    (b'{"identity": []}', "identity is []; expected an object"), (b'{"identity": {}}', "identity has no 'seed'"),
    (b'{"identity": {"seed": 1}}', "it has no 'entries'"),
    (b'{"identity": {"seed": 1}, "entries": 5}', "not iterable"),
    (b'{"identity": {"seed": 1}, "entries": ["x"]}', "could not convert"),
    (b'{"identity": {"seed": 1}, "entries": [NaN]}', "NaN is no finite number"),
    (b'{"identity": {"seed": 1}, "entries": [1e999]}', "1e999 is too large"),
    (b'{"identity": {"seed": 1}, "entries": [' + b"9" * 5000 + b"]}", "digit"),
])
def test_damaged_state_ends_in_one_line(tmp_path, content, why):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        read_entries(path)
    message = str(refusal.value)
    assert message.startswith(f"{str(path)!r} is damaged")
    assert why in message
    assert "\n" not in message
    assert path.read_bytes() == content


def test_temporary_files_go_when_their_process_is_gone(tmp_path, hold):
    alive = hold("half", tmp_path / "elsewhere" / "state.json", tmp_path / "table.csv")
    gone = hold("half", tmp_path / "state.json", tmp_path / "table.csv")
    gone.kill()
    gone.wait()
    (tmp_path / ".mine.tmp").write_text("of no process")
    with open_run(tmp_path / "state.json"):
        left = {p.name for p in tmp_path.glob(".*.tmp")}
    assert left == {f".table.csv.{alive.pid}.tmp", ".mine.tmp"}
    with atomic_write(tmp_path / "table.csv") as file:
        file.write("whole")
    assert (tmp_path / "table.csv").read_text() == "whole"


RANKS = """
import json, sys
from modules.utils import dist
from modules.utils.errors import UserError
from modules.utils.runs import Run
dist.init_distributed()
try:
    with Run(sys.argv[1], logs=("x.log",), resume=True, overwrite=False, option="-o") as run:
        run.begin({"x.log": 2})
        print(json.dumps([dist.rank(), run.found, run.continues]), flush=True)
        if dist.rank() == 0:
            run.write_state({}, {})
except UserError as error:
    print(json.dumps([dist.rank(), str(error)]), flush=True)
dist.close()
"""


def test_processes_of_a_launcher_agree_and_the_first_one_locks(tmp_path, hold):
    def launch():
        environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
        ranks = [subprocess.Popen([sys.executable, "-c", RANKS, tmp_path / "state.json"], text=True,
                                  env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE,
                                  cwd=Path(__file__).parents[2]) for rank in range(2)]
        lines = [line for rank in ranks for line in rank.communicate(timeout=60)[0].splitlines()]
        return sorted(json.loads(line) for line in lines if line.startswith("["))

    assert launch() == [[0, False, False], [1, False, False]]
    assert launch() == [[0, True, True], [1, True, True]]
    (tmp_path / "state.json").unlink()
    hold("held", tmp_path / "state.json")
    refused = launch()
    assert [rank for rank, _ in refused] == [0, 1]
    assert all("in use by process" in reason for _, reason in refused)
