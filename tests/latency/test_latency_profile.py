"""Profiles of devices: measuring, choosing, fitting, resuming after SIGKILL, machines behind ssh and adb."""
import csv
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from latency_nets import BLOCK, draw
from onnx import numpy_helper
from processes import kill_when, run_script
from stand_ins import write_ssh

from modules.latency import get_platform
from modules.latency.keys import block_key, parse_key
from modules.latency.onnxruntime_int8 import OnnxRuntimeInt8
from modules.latency.platform import weight_bits
from modules.latency.prediction import Prediction
from modules.latency.profile import profiled
from modules.latency.profile.__main__ import main
from modules.latency.profile.design import Net, choose_blocks, choose_nets, superspace_of
from modules.latency.profile.journal import HEADER, Journal, Row
from modules.latency.profile.measure import at_one_speed, measure, open_reference, typical, usual_reference
from modules.latency.profile.models import block_model, file_form
from modules.latency.profile.plan import Plan, Settings, add_nets, make_plan
from modules.latency.profile.timer import network_timer
from modules.latency.profile.validation import net_figures
from modules.latency.profile.wholenet import TERMS, Correction, block_terms, fit_correction, net_terms
from modules.latency.table import TablePlatform
from modules.modeling.complexity import blocks_of, count_net_flops_and_params
from modules.modeling.net_spec import NetSpec, resolve
from modules.modeling.spec import BlockArgs
from modules.runtime import runner
from modules.runtime.devices import DeviceOptions, RunnerDevice, open_device
from modules.runtime.litert import LiteRtSession
from modules.search_space import get_available_superspaces, get_superspace
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.runs import Run


def test_typical_latency_is_that_of_undisturbed_runs():
    quiet = [1.0, 1.01, 1.02, 1.03]
    assert typical([*quiet, 5, 9, 1.5, 30, 2, 2, 4, 7, 8, 3, 3, 3]) == pytest.approx(np.mean(quiet))
    assert typical([3.0]) == 3.0


def test_drift_is_corrected_by_the_reference():
    true = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    slow = np.array([1.0, 1.0, 1.0, 1.5, 3.0])
    assert at_one_speed(true * slow, 0.1 * slow, 0.1) == pytest.approx(true)


def test_networks_that_are_measured_later_do_not_move_the_latencies_of_blocks():
    """So a continued profile ends with the model of an undisturbed one, whatever the speed was at its networks."""
    blocks = [Row("block", f"b{i}", 1.0 + i, 0.1, 1.0, 5, 1.0) for i in range(5)]
    nets = [Row("correction", f"n{i}", 9.0, 0.2, 9.0, 5, 1.0) for i in range(9)]
    assert usual_reference(blocks) == usual_reference([*blocks, *nets]) == 0.1


# ---------------------------------------------------------------- the journal

def rows(count):
    return [Row("block", f"name,{i}", 0.1 * i, 0.1, 0.2, 16, 0.5) for i in range(1, count + 1)]


def test_the_journal_survives_a_line_that_was_half_written(tmp_path):
    path = tmp_path / "measurements.csv"
    journal = Journal(path)
    journal.add(rows(2))
    whole = path.read_bytes()
    path.write_bytes(whole + b'block,"name,3",0.29')
    again = Journal(path)
    assert [row.name for row in again.of("block")] == ["name,1", "name,2"]
    assert again.seconds == 1.0
    again.add(rows(3)[2:])
    assert path.read_bytes().startswith(whole)
    assert [float(line["ms"]) for line in csv.DictReader(path.open())] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(("content", "words"), [
    ("a,b\n", ["a,b", "role"]), (",".join(HEADER) + "\nblock,x,fast,1,1,1,1,1\n", ["line 2", "fast"])])
def test_a_foreign_journal_is_refused(tmp_path, content, words):
    path = tmp_path / "measurements.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        Journal(path)
    assert all(word in str(error.value) for word in [*words, str(path)])
    assert path.read_text() == content


# ---------------------------------------------------------------- the plan

@pytest.mark.parametrize("name", get_available_superspaces())
def test_drawn_networks_are_legal_different_and_of_all_sizes(name):
    space = get_superspace(name)
    nets = draw(120, superspace=space)
    assert len(set(nets)) == 120
    for net in nets:
        SubnetSpace(net.space, space.resolutions).check(net.choice)
        assert Net.from_str(str(net)) == net
    assert superspace_of(nets[0].spec)
    macs = np.array([count_net_flops_and_params(net.spec)[0] for net in nets])
    assert macs.max() / macs.min() > 15  # the largest and smallest of 120 uniform draws of onnxw differ 8-fold


def test_the_superspace_of_a_network_is_found_whatever_its_classes():
    net = draw(1)[0]
    assert superspace_of(net.spec) == "onnxw_tiny"
    ten = resolve(net.space, net.choice, 10)
    assert superspace_of(ten) == "onnxw_tiny"
    assert superspace_of(NetSpec(ten.stages[:-1], 32)) == ""


def test_all_subnets_of_a_space_are_of_one_superspace():
    """`onnx` has some networks of `onnxw`, its smallest among them; a network knows where it was taken from."""
    space = SupernetConfig.from_choice("onnxw", "111111-011101")
    small, large = (resolve(space, SubnetSpace(space, (160,)).extreme(end)) for end in (min, max))
    assert superspace_of(small) == superspace_of(large) == "onnxw"
    assert superspace_of(NetSpec(small.stages, small.resolution)) == "onnx"
    assert NetSpec(small.stages, small.resolution) == small


def test_chosen_blocks_cover_the_pool_better_than_random_ones():
    nets = draw(150)
    spread_out, representative = choose_blocks(nets, 60, np.random.default_rng(0))
    chosen = spread_out + representative
    assert len(set(chosen)) == 60
    assert 20 < len(representative) < 40
    used = Counter(block for net in nets for block in blocks_of(net.spec))
    assert {block.kind for block, _ in spread_out} == {block.kind for block, _ in used}
    assert choose_blocks(nets, 60, np.random.default_rng(0)) == (spread_out, representative)

    def radius(chosen):  # how far, in octaves of width and height, a block of a type may be from a chosen one
        def place(item):
            (block, (h, _)) = item
            return np.log2([h, block.cin, block.cout, block.expand or 1])

        return max(min(np.abs(place(a) - place(b)).sum() for b in chosen if b[0].kind == a[0].kind)
                   for a in list(used)[::3])

    one_of_each = list({item[0].kind: item for item in chosen}.values())
    pool, rng = list(used), np.random.default_rng(1)
    for _ in range(3):
        drawn = [pool[i] for i in rng.choice(len(pool), len(spread_out), replace=False)]
        assert radius(chosen) < radius(drawn + representative + one_of_each)


def test_chosen_networks_are_spread_evenly():
    nets, ms = draw(400), np.exp(np.random.default_rng(0).normal(0, 0.4, 400))
    chosen = choose_nets(nets, ms, 20, np.random.default_rng(0))
    assert len(set(chosen)) == 20
    latency = dict(zip(nets, ms, strict=True))
    log = np.log([latency[net] for net in chosen])
    assert sorted(choose_nets(nets[:7], ms[:7], 20, np.random.default_rng(0)), key=str) == sorted(nets[:7], key=str)
    thirds = np.histogram(log, 3, (np.log(ms.min()), np.log(ms.max())))[0]
    assert min(thirds) >= 5  # 400 normal draws have 3% in the outer thirds


def test_phones_without_xnnpack_get_the_form_of_their_kernels():
    """Large depthwise filters stay what they are there; XNNPACK runs the grouped form faster."""
    block, hw = BlockArgs("MobileNetV2Res", 16, 16, 7, 4, 1, "relu6"), (14, 14)
    forms = [file_form(*of) for of in (("litert", "adb:1", False), ("litert", "adb", True), ("litert", "local", False),
                                       ("onnxruntime", "local", False))]
    assert forms[1:] == ["litert", "litert", "onnxruntime"]
    plain, grouped = ([op["op_name"] for op in LiteRtSession(block_model(form, block, hw), 1, False).interpreter
                       ._get_ops_details()] for form in forms[:2])
    assert plain.count("DEPTHWISE_CONV_2D") == 1
    assert "DEPTHWISE_CONV_2D" not in grouped


def test_a_plan_round_trips_and_refuses_other_settings(tmp_path):
    settings, machine = Settings("onnxruntime", "onnxw_tiny", (32,), blocks=35, correction_nets=10, test_nets=5), {
        "cpu": "abacus"}
    plan = add_nets(make_plan(settings, machine),
                    lambda specs: np.array([count_net_flops_and_params(spec)[0] for spec in specs]))
    assert not set(plan.test_nets) & set(plan.correction_nets)
    assert set(plan.blocks) == {*plan.spread_out, *plan.representative}
    path = tmp_path / "plan.json"
    run = Run(path, resume=True, overwrite=False, option="--output")
    plan.save(run)
    assert Plan.load(run, settings, machine) == plan
    for other, words in (((Settings("onnxruntime", "onnxw_tiny", (32, 48)), machine), ["resolutions", "[32]"]),
                         ((replace(settings, options=DeviceOptions(cpus=(1,))), machine), ["cpus", "[1]"]),
                         ((settings, {"cpu": "slide rule"}), ["machine", "abacus", "slide rule"])):
        with pytest.raises(UserError) as error:
            Plan.load(run, *other)
        assert all(word in str(error.value) for word in words)


# ---------------------------------------------------------------- whole networks

def test_the_correction_finds_a_linear_law_in_spite_of_a_bad_measurement():
    specs = [net.spec for net in draw(40)]
    sums, terms = np.random.default_rng(0).uniform(0.5, 2, 40), net_terms(specs)
    law = np.array([0.9, 0.02, 0.3, 0.1])
    ms = np.column_stack([sums, terms]) @ law
    noisy = ms * np.exp(np.random.default_rng(1).normal(0, 0.02, 40))
    noisy[3] *= 4
    correction = fit_correction(sums, terms, noisy)
    assert np.abs(correction.apply(sums, terms) / ms - 1).max() < 0.05
    assert np.abs(sums / ms - 1).mean() > 0.1
    assert 0.01 < correction.deviation < 0.04


def test_corrected_blocks_add_up_to_the_corrected_network():
    correction = Correction((0.9, 0.02, 0.3, 0.1), 0.05)
    spec = draw(1)[0].spec
    blocks, hws = zip(*blocks_of(spec), strict=True)
    alone = np.random.default_rng(0).uniform(0.1, 0.2, len(blocks))
    whole = correction.apply(np.array([alone.sum()]), net_terms([spec]))
    assert correction.apply(alone, block_terms(blocks, hws)).sum() == pytest.approx(whole[0])
    million = count_net_flops_and_params(spec)[1]
    assert net_terms([spec])[0, :2] == pytest.approx([len(blocks), million], rel=0.05)  # all but biases and norms


def test_figures_of_validation_are_those_of_scipy():
    first, second = np.array([1.0, 2, 3, 4]), np.array([1.1, 2.2, 3.0, 2.9])
    predicted = Prediction(np.array([1.0, 2.1, 2.0, 4.0]), np.array([0.1, 0.1, 0.1, 0.1]), np.zeros(4, bool))
    figures = net_figures(first, second, predicted, predicted.ms * 2)
    assert figures["kendall_tau_of_repeating"] == pytest.approx(4 / 6, abs=1e-4)  # one of six pairs is discordant
    assert figures["kendall_tau"] == pytest.approx((4 / 6 + 2 / 6) / 2, abs=1e-4)
    measured = (first + second) / 2
    assert figures["mean_abs_error"] == pytest.approx(np.mean(np.abs(predicted.ms - measured) / measured), abs=1e-4)
    assert figures["coverage_90"] == 0.5  # 2.0 for 3.0 is off by more than 1.645 * 5%, 4.0 for 3.45 by more than 2.5%


def test_this_machine_is_corrected_to_whole_networks(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    alone = {}

    def law(self, key, build):  # a network takes 0.7 of its blocks, less 2 us for each
        if " " in key:
            blocks = blocks_of(Net.from_str(key).spec)
            return 0.7 * sum(price(block_key(*block)) for block in blocks) - 0.002 * len(blocks)
        return price(key)

    def price(key):
        return alone.setdefault(key, 0.02 + 0.05 * (sum(map(ord, key)) % 17) / 17)

    monkeypatch.setattr(OnnxRuntimeInt8, "_measured", law)
    platform, specs = get_platform("onnxruntime_int8"), [net.spec for net in draw(30, seed=5)]
    sums = np.array([sum(price(block_key(*block)) for block in blocks_of(spec)) for spec in specs])
    whole = 0.7 * sums - 0.002 * np.array([len(blocks_of(spec)) for spec in specs])
    predicted = platform.predict_subnets(specs)
    assert predicted.ms == pytest.approx(whole, rel=0.06)
    assert (sums > 1.4 * whole).all()
    assert np.isfinite(predicted.std).all()
    block, hw = blocks_of(specs[0])[0]
    assert platform.predict_block(block, hw) == price(block_key(block, hw))
    # A table of exact values wins for its blocks, and changes nothing else: networks are corrected and measured alike.
    table = TablePlatform(platform, {(block, hw): 2 * price(block_key(block, hw))})
    with_block = np.array([blocks_of(spec).count((block, hw)) for spec in specs])
    slope = platform._correction("onnxw_tiny").coefficients[0]
    assert slope == pytest.approx(0.7, rel=0.2)
    assert table.predict_subnets(specs).ms - predicted.ms == pytest.approx(
        slope * price(block_key(block, hw)) * with_block)
    assert with_block.any()
    assert not with_block.all()
    assert network_timer("onnxruntime_int8", table)(specs[0]) == platform.measure_subnet(specs[0])


# ---------------------------------------------------------------- the command line, killed and resumed

SMALL = ["--backend", "onnxruntime", "--superspace", "onnxw_tiny", "--resolutions", "32", "--blocks", "30",
         "--correction_nets", "10", "--test_nets", "4"]


def profile(cache, *arguments):
    return run_script("-m", "modules.latency.profile", *arguments, env={"SPACEEVO_CACHE": str(cache)})


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """The cache with the platform `mine`, and the measurements that were there when its first run was killed."""
    cache = tmp_path_factory.mktemp("cache")
    table = cache / "platforms" / "mine" / "measurements.csv"
    process = subprocess.Popen([sys.executable, "-m", "modules.latency.profile", *SMALL, "--output", "mine"],
                               cwd=REPOSITORY, env=os.environ | {"SPACEEVO_CACHE": str(cache)},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kill_when(process, lambda: table.is_file() and table.read_bytes().count(b"\n") >= 8)
    before = table.read_bytes()
    table.write_bytes(before + b"block,Conv_3")  # as if it had died within a line
    done = profile(cache, *SMALL, "--output", "mine", "--memory", "--resume")
    assert done.returncode == 0, done.stderr
    return cache, before, done.stdout


def test_a_killed_profile_goes_on_and_measures_nothing_twice(killed_and_resumed):
    cache, before, out = killed_and_resumed
    content = (cache / "platforms" / "mine" / "measurements.csv").read_bytes()
    assert content.startswith(before)
    assert 0 < before.count(b"\n") < content.count(b"\n")
    lines = list(csv.DictReader(content.decode().splitlines()))
    assert max(Counter((line["role"], line["name"]) for line in lines).values()) == 1
    assert Counter(line["role"] for line in lines) == {"block": 30, "correction": 10, "test1": 4, "test2": 4}
    assert "44 configurations" in out
    assert all(float(line["peak_mb"]) > 0.2 for line in lines if line["role"] == "test1")


def test_the_record_tells_what_the_measurements_say(killed_and_resumed, monkeypatch):
    cache, _, _ = killed_and_resumed
    monkeypatch.setenv("SPACEEVO_CACHE", str(cache))
    check_record(cache / "platforms" / "mine")
    by_name, by_path = (get_platform(name) for name in ("mine", str(cache / "platforms" / "mine")))
    specs = [net.spec for net in draw(5, seed=3)]
    assert by_name.predict_subnets(specs).ms == pytest.approx(by_path.predict_subnets(specs).ms)
    assert (cache / "platforms" / "mine" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "mine" in profiled.profiled_names()


def check_record(folder):
    """The whole-network error that platform.json states is that of its predictor on its measurements."""
    record = json.loads((folder / "platform.json").read_text())
    lines = list(csv.DictReader((folder / "measurements.csv").open()))
    middle = record["reference_ms"]
    measured = {}
    for line in lines:
        if line["role"].startswith("test"):
            measured.setdefault(line["name"], []).append(float(line["ms"]) * middle / float(line["reference_ms"]))
    ms = np.array([np.mean(values) for values in measured.values()])
    platform = get_platform(str(folder))
    specs = [Net.from_str(name).spec for name in measured]
    predicted = platform.predict_subnets(specs)
    figures = record["validation"]["networks"]
    assert figures["mean_abs_error"] == pytest.approx(np.mean(np.abs(predicted.ms / ms - 1)), abs=2e-4)
    total = [sum(platform.predict_block(*block) for block in blocks_of(spec)) for spec in specs]
    assert predicted.ms == pytest.approx(total)
    assert (predicted.std > 0).all()
    fitted = [parse_key(line["name"]) for line in lines if line["role"] == "block"]
    assert not platform.predict_blocks(*zip(*fitted, strict=True)).extrapolated.any()
    return record, ms


def largest_code(content):
    weights = [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer]
    return max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8 and w.ndim > 1)


def test_a_profile_of_7_bits_times_such_networks_and_says_so(tmp_path, monkeypatch):
    """By onnx, the codes of all models that the device gets fill the range of 7 bits; the reference is of 8."""
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    timed, open_model = {}, RunnerDevice.open

    def listening(device, name, content):
        timed.setdefault(name, []).append(largest_code(content))
        open_model(device, name, content)

    monkeypatch.setattr(RunnerDevice, "open", listening)
    main([*SMALL[:-2], "--test_nets", "3", "--blocks", "20", "--output", "seven", "--weight_bits", "7"])
    assert timed.pop("reference") == [127]
    assert {code for codes in timed.values() for code in codes} == {63}
    timed.clear()
    assert network_timer("seven", get_platform("seven"))(draw(1)[0].spec) > 0
    assert timed["model"] == [63]
    assert (weight_bits("seven"), weight_bits("epyc_onnxruntime_int8")) == (7, 8)
    record = json.loads((tmp_path / "platforms" / "seven" / "platform.json").read_text())
    (tmp_path / "platforms" / "seven" / "platform.json").write_text(json.dumps({**record, "weight_bits": "7"}))
    with pytest.raises(UserError, match=r"platform\.json': weight_bits is '7'; expected a whole number"):
        weight_bits("seven")


def test_a_profile_is_neither_overwritten_nor_mixed_with_another(killed_and_resumed):
    cache, _, _ = killed_and_resumed
    for arguments, words in (
            ([], ["mine", "--resume", "--overwrite"]),
            (["--resume", "--seed", "3"], ["seed was 0", "is 3 now"]),
            (["--resume", "--threads", "2"], ["threads was 1", "is 2 now"])):
        done = profile(cache, *SMALL, "--output", "mine", *arguments)
        assert done.returncode == 2
        assert all(word in done.stderr for word in words)
        assert done.stderr.count("\n") == 1


def test_a_second_profile_that_is_refused_is_refused_before_the_first(tmp_path):
    taken = tmp_path / "mine_t2_b1" / "plan.json"
    taken.parent.mkdir()
    taken.write_text("{}")
    with pytest.raises(UserError, match=r"mine_t2_b1.plan\.json' exists; continue it with --resume"):
        main([*SMALL, "--output", str(tmp_path / "mine"), "--threads", "1", "2"])
    assert not (tmp_path / "mine" / "plan.json").exists()


@pytest.mark.parametrize(("changes", "words"), [
    (["--superspace", "onnxv"], ["'onnxv'", "onnxw_tiny"]),
    (["--correction_nets", "4"], ["--correction_nets 4", "10 or more"]),
    (["--threads", "0"], ["--threads 0"]),
    (["--device", "moon"], ["'moon'", "ssh:"]),
    (["--device", "adb", "--backend", "openvino"], ["openvino", "litert"]),
    (["--output", "{tmp}/full"], ["full'", "not empty"]),
    (["--output", "onnx_lut"], ["'onnx_lut'", "platform of the program"]),
    (["--superspace", "resnet8", "--resolutions", "32"], ["'resnet8' has 1 networks"]),
    (["--use_xnnpack"], ["--use_xnnpack", "'local'"]),
])
def test_bad_input_ends_with_one_line(tmp_path, changes, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    done = profile(tmp_path, *SMALL, "--output", "other", *(word.format(tmp=tmp_path) for word in changes))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)


def test_an_unknown_or_damaged_platform_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        get_platform("abacus")
    assert "'abacus'" in str(error.value)
    assert "onnxruntime_int8" in str(error.value)
    (tmp_path / "platform.json").write_text("{}")
    with pytest.raises(UserError, match=r"no .correction.; it holds nothing"):
        get_platform(str(tmp_path))
    correction = {"terms": ["ms", "luck"], "coefficients": [1, 0, 0, 0], "deviation": 0.1}
    (tmp_path / "platform.json").write_text(json.dumps({"correction": correction}))
    with pytest.raises(UserError, match=r"luck.*--resume"):
        get_platform(str(tmp_path))
    correction["terms"] = list(TERMS)
    (tmp_path / "platform.json").write_text(json.dumps({"correction": correction}))
    with pytest.raises(UserError, match=r"model\.npz"):
        get_platform(str(tmp_path))


# ---------------------------------------------------------------- other devices

def test_a_machine_behind_ssh_does_the_same(tmp_path, monkeypatch):
    """The machine is a shell with another home."""
    home = tmp_path / "home"
    calls = write_ssh(tmp_path / "bin", home)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    device = open_device("ssh:me@board", "onnxruntime", options=DeviceOptions(remote_python=sys.executable))
    try:
        assert device.describe()["runtime"].startswith("onnxruntime")
        open_reference(device, "onnxruntime")
        assert measure(device, block_model("onnxruntime", BLOCK, (8, 8))).ms > 0
    finally:
        device.stop()
    assert (home / ".cache/spaceevo/runner.py").read_bytes() == Path(runner.__file__).read_bytes()
    assert all(" -- me@board " in call for call in calls.read_text().splitlines() if "BatchMode" in call)
    broken = open_device("ssh:me@board", "onnxruntime", options=DeviceOptions(remote_python="no-such-python"))
    with pytest.raises(UserError, match=r"me@board.*no-such-python"):
        broken.describe()
    broken.stop()


# ---------------------------------------------------------------- shipped profiles

SHIPPED = [path.parent for path in sorted(profiled.SHIPPED.glob("*/platform.json"))]


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_platforms_keep_their_promise(folder):
    record, ms = check_record(folder)
    networks, blocks = record["validation"]["networks"], record["validation"]["blocks"]
    assert record["configurations"] <= 600
    assert networks["number"] >= 30
    assert ms.max() / ms.min() > 5
    assert networks["mean_abs_error"] <= 0.08
    assert networks["kendall_tau"] >= networks["kendall_tau_of_repeating"] - 0.06
    assert 0.85 <= blocks["coverage_90"] <= 0.95
    specs = [net.spec for net in draw(3)]
    assert get_platform(folder.name).predict_subnets(specs).ms == pytest.approx(
        get_platform(str(folder)).predict_subnets(specs).ms)


def test_profiles_do_not_import_torch():
    code = ("import sys, modules.latency.profile.session, modules.runtime.phone.device;"
            "from modules.latency.profile.models import block_model, BlockArgs;"
            "block_model('onnxruntime', BlockArgs('MobileNetV2Res', 16, 16, 3, 4, 1, 'relu6'), (8, 8));"
            "sys.exit('torch' in sys.modules)")
    assert run_script("-c", code).returncode == 0
