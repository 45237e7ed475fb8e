"""The best of a subnet search measured at its end: re-ranked, marked, and not chosen where the limit is broken."""
import csv
import json
import os
from dataclasses import asdict

import numpy as np
import pytest
from stand_ins import write_adb

from modules.latency.profile.profiled import RECORD
from modules.latency.profile.timer import network_timer
from modules.modeling.net_spec import resolve
from modules.runtime.device import Times
from modules.runtime.devices import DeviceOptions, open_device
from modules.search.generations import GenerationSizes
from modules.search.subnet.measure import Measurement, chosen
from modules.search.subnet.proposals import Proposer
from modules.search.subnet.search import FILES, SubnetSearch, run_search
from modules.search.subnet.settings import SearchSettings
from modules.search.subnet.state import SearchState
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.evaluation import Accuracy
from modules.utils.errors import UserError
from modules.utils.runs import Run

SPACE = SupernetConfig.from_choice("onnxw_tiny", "053412-000000")
SUBNETS = SubnetSpace(SPACE, (32, 48))
LIMIT = 10.0


class Flat:
    """A platform that says half a limit for everything."""

    def predict_subnet(self, spec):
        return LIMIT / 2


def run(folder, slow, calls, resume=False, wanted=2, devices=1):
    """A search of 12 subnets whose accuracies are 80, 79, ... in the order of evaluation; those that `slow` says are
    over the limit as measured."""
    settings = SearchSettings(limits=(LIMIT,) * devices, delta=LIMIT, devices=devices, rounds=0,
                              sizes=GenerationSizes(12))
    with Run(folder / "state.json", files=FILES, resume=resume, overwrite=False, option="--output_path") as opened:
        state = SearchState(opened, settings.identity)
        proposer = Proposer(SUBNETS, {f"device{i}": Flat() for i in range(devices)}, 10, settings)
        accuracies = iter(range(80, 0, -1))
        search = SubnetSearch(proposer, lambda choices, test=False: (
            Accuracy(float(next(accuracies)), 100.0, 1.0, 400) for _ in choices), state)
        names = {}

        def measure(spec):
            calls.append(spec)
            order = [s.proposal.choice for s in search.evaluated]
            names.update({resolve(SPACE, choice, 10): i for i, choice in enumerate(order)})
            return LIMIT * 1.5 if names[spec] in slow else LIMIT / 4

        ranking = run_search(search, folder, folder / "search.log", top_num=0,
                             measurement=Measurement([measure] * devices, wanted, proposer.spec, state))
    with open(folder / "best.csv", newline="") as file:
        return ranking, state, list(csv.DictReader(file))


def test_what_breaks_the_limit_is_marked_and_not_chosen(tmp_path):
    calls = []
    ranking, state, rows = run(tmp_path, {0, 2}, calls)
    (window, subnets), = ranking.items()
    assert [s.accuracy.top1 for s in subnets] == [79, 77, 80, 78]  # two that keep it, then the two that break it
    assert len(calls) == 4
    assert [(row["keeps_limit"], float(row["latency"]), float(row["latency_measured"])) for row in rows] == [
        ("1", 5, 2.5), ("1", 5, 2.5), ("0", 5, 15), ("0", 5, 15)]
    assert chosen(ranking, state.measured)[window].accuracy.top1 == 79
    exported = (tmp_path / "export.csv").read_text()
    assert exported == f"onnxw_tiny,053412-000000,{rows[0]['enc']}\n"
    assert (tmp_path / "search.log").read_text().count("measured: 15.000 ms (over the limit)") == 2
    # What was measured is not measured again.
    (tmp_path / "best.csv").unlink()
    _, _, rows_again = run(tmp_path, {0, 2}, calls, resume=True)
    assert len(calls) == 4
    assert rows_again == rows


def test_nothing_is_chosen_where_all_break_the_limit(tmp_path):
    calls = []
    ranking, state, rows = run(tmp_path, set(range(12)), calls)
    assert len(calls) == len(rows) == 12
    assert chosen(ranking, state.measured) == {}
    assert (tmp_path / "export.csv").read_text() == ""
    assert "None of 12 measured subnets is within 10 ms" in (tmp_path / "search.log").read_text()


def test_each_device_is_measured(tmp_path):
    calls = []
    _, _, rows = run(tmp_path, {1}, calls, devices=2)
    assert len(calls) == 2 * 3
    assert [(row["latency_measured"], row["latency_measured_device1"], row["keeps_limit"]) for row in rows] == [
        ("2.50000", "2.50000", "1"), ("2.50000", "2.50000", "1"), ("15.00000", "15.00000", "0")]


def test_a_profiled_phone_measures_with_the_options_of_its_profile(tmp_path, monkeypatch):
    calls = write_adb(tmp_path / "bin", tmp_path / "phone", name="bench")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    options = DeviceOptions(bin_name="bench", taskset_mask="f0", use_xnnpack=True)
    record = {"device": "adb", "backend": "litert", "threads": 1, "batch": 1, "reference_ms": 1.0,
              "machine": open_device("adb", "litert", options=options).describe(), "options": asdict(options)}
    (tmp_path / RECORD).write_text(json.dumps(record))
    timer = network_timer(str(tmp_path), Flat())
    assert timer(resolve(SPACE, SUBNETS.extreme(min), 10)) > 0
    timer.device.stop()
    timed = [call for call in calls.read_text().splitlines() if "--graph" in call]
    assert timed
    assert all("taskset f0 " in call and "--use_xnnpack=true" in call for call in timed)


class Steady:
    """A device on which every run takes 3 ms, and the reference beside it 1.5 ms."""

    def describe(self):
        return {"cpu": "steady"}

    def open(self, name, content):
        assert content

    def time(self, names, rounds):
        return {name: Times(np.full(rounds, 3.0), np.full(rounds, 1.5)) for name in names}

    def close(self, names):
        pass

    stop = describe


def test_a_profiled_platform_measures_with_its_engine_on_its_machine(tmp_path, monkeypatch):
    """The latency is that at the speed of the profile: where its reference took twice as long, so does the network."""
    opened = []
    monkeypatch.setattr("modules.runtime.devices.open_device", lambda *given: opened.append(given) or Steady())
    machine = Steady().describe()
    record = {"device": "local", "backend": "litert", "threads": 3, "batch": 2, "machine": machine}
    spec, found = resolve(SPACE, SUBNETS.extreme(min), 10), []
    for name, reference in (("slow", 2000.0), ("fast", 1000.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD).write_text(json.dumps({**record, "reference_ms": reference}))
        found.append(network_timer(str(tmp_path / name), Flat())(spec))
    assert found == pytest.approx([3 / 1.5 * 2000, 3 / 1.5 * 1000])
    assert opened == [("local", "litert", 3, 2, DeviceOptions())] * 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / RECORD).write_text(
        json.dumps({**record, "machine": {**machine, "cpu": "abacus"}, "reference_ms": 1.0}))
    with pytest.raises(UserError, match="does not measure networks here: it is of cpu abacus"):
        network_timer(str(tmp_path / "other"), Flat())
    with pytest.raises(UserError, match="platform onnx_lut does not measure networks; allowed: onnxruntime_int8"):
        network_timer("onnx_lut", Flat())
