"""The latency cache is not believed blindly, and a cache that cannot be written stops nothing."""
import json
from types import SimpleNamespace

import pytest

from modules.latency.cache import LatencyCache
from modules.latency.onnxruntime_int8 import OnnxRuntimeInt8

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
