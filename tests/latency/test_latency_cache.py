"""The latency cache is not believed blindly, and a cache that cannot be written stops nothing."""
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from modules.latency.cache import LatencyCache, cache_folder
from modules.latency.onnxruntime_int8 import OnnxRuntimeInt8
from modules.modeling.spec import BlockArgs
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

MACHINE = {"cpu": "abacus", "threads": 1}


@pytest.fixture
def cache_path(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    cache = LatencyCache("test", MACHINE)
    assert cache.get("a", lambda: 1.5) == 1.5
    cache.save()
    return cache.path


def test_values_are_kept(cache_path, capsys):
    assert LatencyCache("test", MACHINE).get("a", lambda: 9.0) == 1.5
    assert capsys.readouterr().err == ""


def test_two_processes_that_begin_a_cache_keep_one_reference(tmp_path, monkeypatch):
    """The second measures 0.2 ms where the first kept 0.1, and scales by the first one's figure."""
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    monkeypatch.setattr("modules.runtime.devices.open_device", lambda *args, **options: SimpleNamespace(stop=int))
    monkeypatch.setattr("modules.latency.profile.measure.open_reference", lambda *args: None)
    first, second = OnnxRuntimeInt8(), OnnxRuntimeInt8()
    for platform, ms in ((first, 0.1), (second, 0.2)):
        monkeypatch.setattr("modules.latency.profile.measure.measure_reference", lambda device, ms=ms: ms)
        platform._open_device()
    assert first.cache.values["reference"] == second.cache.values["reference"] == 0.1


def test_a_process_that_measured_the_same_goes_on_with_the_figures_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    first, second = OnnxRuntimeInt8(), OnnxRuntimeInt8()
    for platform, ms in ((first, 0.1), (second, 0.2)):
        monkeypatch.setattr(platform, "_measure", lambda content, ms=ms: ms)
        block = BlockArgs("Conv", 3, 16, 3, None, 2, "relu")
        assert platform.predict_block(block, (32, 32)) == 0.1


def test_processes_that_save_at_once_lose_nothing(tmp_path):
    """Each of four reads, waits and writes: without turns the last one would write over the others."""
    code = ("import json, sys, time\n"
            "from modules.latency.cache import LatencyCache\n"
            "cache, number = LatencyCache('test', {}), sys.argv[1]\n"
            "read = cache._read\n"
            "cache._read = lambda: (read(), time.sleep(0.2))[0]\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "cache.get(number, lambda: 1.0)\n"
            "cache.save()\n")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(number)], cwd=REPOSITORY, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  env=os.environ | {"SPACEEVO_CACHE": str(tmp_path)}) for number in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0] * 4
    (path,) = tmp_path.glob("*.json")
    assert set(json.loads(path.read_text())["ms"]) == {"0", "1", "2", "3"}


@pytest.mark.parametrize("value", ["-1", "0", "NaN", "Infinity", '"1"', "null", "true", "[1]", "1e999"])
def test_figures_that_are_no_latency_are_measured_anew(cache_path, capsys, value):
    cache_path.write_text(f'{{"identity": {json.dumps(MACHINE)}, "ms": {{"a": {value}, "b": 2}}}}')
    cache = LatencyCache("test", MACHINE)
    assert (cache.get("a", lambda: 7.0), cache.get("b", lambda: 7.0)) == (7.0, 2.0)
    cache.save()
    said = capsys.readouterr().err
    assert said.count("measured anew") == 1
    assert str(cache_path) in said
    assert json.loads(cache_path.read_text())["ms"] == {"a": 7.0, "b": 2.0}


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"\xff\xfe\xfd", b'{"ms": {"a": 1.5}}', b'{"identity": {}, "ms": [1]}', b"[" * 100_000,
    b'{"identity": {"cpu": "another", "threads": 1}, "ms": {"a": 3}}'])
def test_damaged_files_and_those_of_other_machines_are_not_believed(cache_path, capsys, content):
    cache_path.write_bytes(content)
    assert LatencyCache("test", MACHINE).get("a", lambda: 7.0) == 7.0
    assert "anew" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "file"))
    cache = LatencyCache("test", MACHINE)
    for key in "ab":
        assert cache.get(key, lambda: 7.0) == 7.0
        cache.save()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "not kept" in said
    assert str(tmp_path / "file") in said


def test_a_user_without_a_home_can_name_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SPACEEVO_CACHE")
    with pytest.raises(UserError, match="no home folder for measured latencies; set SPACEEVO_CACHE"):
        cache_folder()
