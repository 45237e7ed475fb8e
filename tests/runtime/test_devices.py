"""Devices that time models: this machine, its runner, and a phone behind adb."""
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from latency_nets import BLOCK, draw
from stand_ins import write_adb, write_program, write_ssh

from modules.latency.profile.measure import measure, open_reference
from modules.latency.profile.models import block_model, net_model
from modules.modeling.spec import BlockArgs
from modules.runtime import runner
from modules.runtime.devices import DeviceOptions, open_device
from modules.utils.errors import UserError


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_time_away_from_the_core_does_not_count_for_one_thread_only():
    def interrupted():
        busy(0.02)
        time.sleep(0.2)

    assert 20 <= runner.time_once(interrupted, threads=1) < 100
    assert runner.time_once(interrupted, threads=2) >= 220


def test_runs_are_timed_in_turns_and_warm():
    calls = []
    runs = {name: (lambda name=name: calls.append(name)) for name in ("reference", "a", "b")}
    times = runner.time_in_turns(runs, ["a", "b"], rounds=2)
    assert "".join(name[0] for name in calls) == "rraarrbb" * 2
    assert {name: {key: len(v) for key, v in values.items()} for name, values in times.items()} == {
        name: {"ms": 2, "reference_ms": 2} for name in "ab"}


@pytest.mark.parametrize(("runtime", "package"), [("onnxruntime", "onnxruntime"), ("openvino", "openvino"),
                                                  ("litert", "ai_edge_litert")])
def test_every_runtime_runs_blocks_at_a_batch_size(runtime, package):
    pytest.importorskip(package)
    server = runner.Server(runtime, threads=1, batch=2)
    server.do_open("reference", block_model(runtime, BLOCK, (8, 8)))
    server.do_open("net", net_model(runtime, draw(1)[0].spec))
    times = server.do_time(["net"], 3)["net"]
    assert min(times["ms"]) > 0
    assert min(times["reference_ms"]) > 0
    server.do_close(["net"])
    with pytest.raises(KeyError):
        server.do_time(["net"], 1)


def test_the_local_device_measures_and_tells_its_memory():
    device = open_device("local", "onnxruntime")
    try:
        assert "onnxruntime" in device.describe()["runtime"]
        open_reference(device, "onnxruntime")
        measured = measure(device, block_model("onnxruntime", BLOCK, (8, 8)))
        assert 0 < measured.ms <= measured.median_ms
        heavy = block_model("onnxruntime", BlockArgs("Logits", 4000, 4000, 1, None, 1, None), (1, 1))  # 16 MB
        assert device.peak_memory(heavy) > 16
        with pytest.raises(UserError, match="this machine could not open"):
            device.open("broken", b"no model")
        device.close(["reference"])  # it still answers
    finally:
        device.stop()


def test_a_runner_that_dies_is_an_error():
    device = open_device("local", "onnxruntime")
    device.describe()
    device.process.kill()
    device.process.wait()
    with pytest.raises(UserError, match=r"runner on this machine ended with status -9"):
        device.open("reference", b"x" * 10)
    device.process.stdout.close()


def test_without_the_tool_a_remote_device_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for where, runtime, tool in (("ssh:board", "onnxruntime", "ssh"), ("adb", "litert", "adb")):
        with pytest.raises(UserError, match=f"{tool} is not installed"):
            open_device(where, runtime).describe()
    write_program(tmp_path / "ssh", "#!/bin/sh\n")
    with pytest.raises(UserError, match="'-oProxyCommand=x'"):
        open_device("ssh:-oProxyCommand=x", "onnxruntime")


@pytest.mark.parametrize(("says", "told"), [("echo welcome >&2; echo disk full >&2", "disk full"), ("", "no message")])
def test_a_copy_that_fails_is_an_error_with_its_last_words(tmp_path, monkeypatch, says, told):
    write_program(tmp_path / "ssh", f"#!/bin/sh\n{says}\nexit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=rf"^cannot copy runner\.py to 'me@board' by ssh: {told}$"):
        open_device("ssh:me@board", "onnxruntime")


def test_a_shell_that_greets_is_an_error_with_its_words(tmp_path, monkeypatch):
    write_ssh(tmp_path / "bin", tmp_path / "home")
    greeting = (tmp_path / "bin" / "ssh").read_text().replace("cd ", "echo Welcome to board; cd ")
    write_program(tmp_path / "bin" / "ssh", greeting)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    device = open_device("ssh:board", "onnxruntime")
    with pytest.raises(UserError, match=r"runner on board answered 'Welcome to board'.*must print nothing"):
        device.describe()
    device.stop()


@pytest.mark.parametrize(("where", "options", "words"), [
    ("adb", {"cpus": (2, 3)}, "--cpus on device 'adb'; expected there: --binary_dir, --bin_name, --taskset_mask"),
    ("local", {"use_xnnpack": True}, "--use_xnnpack on device 'local'; expected there: --cpus"),
    ("local", {"remote_python": "python3.11"}, "--remote_python on device 'local'"),
    ("ssh:board", {"taskset_mask": "f0"}, "--taskset_mask on device 'ssh:board'; expected there: --cpus, --remote"),
    ("local:1", {}, "device 'local:1'; expected local, ssh:"),
])
def test_an_option_that_the_device_does_not_have_is_refused(where, options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        open_device(where, "litert", options=DeviceOptions(**options))


def test_a_phone_is_asked_through_adb(tmp_path, monkeypatch):
    """The phone takes a microsecond for each byte of a model."""
    calls = write_adb(tmp_path / "bin", tmp_path / "phone", name="benchmark_model")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    device = open_device("adb:X1", "litert", threads=2,
                         options=DeviceOptions(bin_name="benchmark_model", taskset_mask="f0"))
    assert device.describe()["cpu"] == "Pixel 4 (Pixel 4)"
    device.open("reference", b"r" * 2000)
    device.open("net one#", b"n" * 5000)
    times = device.time(["net one#"], 8)["net one#"]
    assert times.ms.tolist() == [5.0, 5.0]
    assert times.reference_ms.tolist() == [2.0, 2.0]
    with pytest.raises(UserError, match="does not tell its memory"):
        device.peak_memory(b"1")
    device.stop()
    assert [path.name for path in (tmp_path / "phone").iterdir()] == ["benchmark_model"]
    calls = calls.read_text()
    assert all(call.startswith("-s X1 ") for call in calls.splitlines())
    assert "taskset f0 /data/local/tmp/benchmark_model" in calls
    assert "--num_threads=2" in calls


def test_the_runner_needs_nothing_of_the_project(tmp_path):
    shutil.copy(runner.__file__, tmp_path / "runner.py")
    done = subprocess.run([sys.executable, "runner.py", "onnxruntime"], cwd=tmp_path,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, input=b'{"do": "describe"}\n',
                          capture_output=True)
    assert json.loads(done.stdout)["runtime"].startswith("onnxruntime")
