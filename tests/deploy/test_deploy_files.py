"""ONNX files of trained nets: agreement, images as bytes, prediction, cards and their report."""
import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy_nets import assert_answers_kept, quantized, subnet
from processes import run_script

from modules.datasets.build import load_data
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.deploy.cards import report
from modules.deploy.cards.card import _fp32_accuracy, add_latency, card_path, read_card
from modules.deploy.cards.report import label, plot_cards, read_cards, rows
from modules.deploy.graph.graph import Node
from modules.deploy.graph.lower import lower
from modules.deploy.graph.normalization import fold_normalization
from modules.deploy.graph.padding import pad_channels
from modules.deploy.graph.plan import make_plan
from modules.deploy.graph.reference import execute
from modules.deploy.to_onnx.writer import onnx_bytes, write_onnx
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.runtime.engines import open_model
from modules.runtime.ort import open_session, optimized_ops
from modules.runtime.pixel_session import PixelSession
from modules.runtime.session import predict, time_interleaved
from modules.training.evaluation import wilson_interval
from modules.utils.checkpoint import save_checkpoint
from modules.utils.errors import UserError
from modules.utils.figures import interval_errors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPACE = "onnxw_tiny-000000-000000"
SMALLEST = "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#24#40#56#96#128_e0#0.5#0#0#0#0#0#0_r32"


@pytest.mark.parametrize("placement", ["lsq", "engine"])
def test_a_trained_network_keeps_its_answers(placement):
    assert_answers_kept(placement, lambda graph: open_session(onnx_bytes(graph)))


def pixels(seed: int = 0, size: int = 32) -> np.ndarray:
    """Bytes (4, size, size, 3), whose borders are anything but the mean."""
    return np.random.default_rng(seed).integers(0, 256, (4, size, size, 3), np.uint8)


def normalized(images: np.ndarray) -> np.ndarray:
    return ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32).transpose(0, 3, 1, 2)


def test_normalisation_becomes_a_part_of_the_first_convolution_borders_included():
    graph = lower(subnet("onnxw_tiny-053412-000000"))
    folded = fold_normalization(graph, MEAN, STD)
    ours, wanted = (execute(make_plan(g), x) for g, x in ((folded, pixels()), (graph, normalized(pixels()))))
    first = graph.nodes[0].output
    np.testing.assert_allclose(ours[first], wanted[first], atol=1e-4)
    np.testing.assert_allclose(ours["output"], wanted["output"], atol=1e-4 * np.abs(wanted["output"]).max())
    result = open_session(onnx_bytes(folded)).run(None, {"input": pixels()})[0]
    np.testing.assert_allclose(result, wanted["output"], atol=1e-4 * np.abs(wanted["output"]).max())


@pytest.mark.parametrize("placement", ["lsq", "engine"])
def test_int8_model_on_bytes(placement, tmp_path):
    net = subnet("onnxw_tiny-053412-000000")
    images = torch.from_numpy(normalized(pixels()))
    if placement == "lsq":
        quantized(net, images)
    else:
        QuantMode(placement="engine").apply(net)
        net(images)
    graph = lower(net, [images])
    folded = fold_normalization(graph, MEAN, STD)
    write_onnx(folded, tmp_path / "pixels.onnx", {"mean": json.dumps(MEAN), "std": json.dumps(STD)})
    operators = optimized_ops(tmp_path / "pixels.onnx", tmp_path)
    assert "QuantizeLinear" not in operators or placement == "lsq"
    assert "Conv" not in operators
    session = open_session(tmp_path / "pixels.onnx")
    assert session.get_inputs()[0].pixels
    assert session.get_inputs()[0].shape[1:] == [32, 32, 3]
    result = session.run(None, {"input": pixels()})[0]
    reference = execute(make_plan(pad_channels(folded)), pixels())["output"]
    assert np.abs(result - reference).mean() < 0.05 * reference.std()
    with torch.no_grad():
        expected = net(images).numpy()
    assert (result - expected).std() < 0.15 * expected.std()
    assert time_interleaved({"": session}, runs=2, warmup=0)[""].shape == (2,)

    wrapped = open_model(tmp_path / "pixels.onnx")
    assert isinstance(wrapped, PixelSession)
    assert wrapped.get_inputs()[0].shape[1:] == [3, 32, 32]
    np.testing.assert_array_equal(predict(wrapped, images.numpy()), result)
    torch.testing.assert_close(wrapped.rounded(images + 0.4 / 255), images, atol=1e-5, rtol=0)


def test_normalisation_needs_a_convolution_to_go_into():
    graph = lower(subnet("onnxw_tiny-053412-000000"))
    graph.nodes.insert(0, Node("act", ("input",), "before", "relu"))
    with pytest.raises(UserError, match="before"):
        fold_normalization(graph, MEAN, STD)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the exports of an untrained subnet, and the script's output for each kind."""
    folder = tmp_path_factory.mktemp("exported")
    model = Supernet.build_from_str(SPACE, 10, (32,))
    record = ModelRecord(SPACE, (32,), tuple("0123456789"), "digits", MEAN, STD, training={"augment": "default"})
    target = folder / f"{SPACE}-align0"
    save_checkpoint(target / "checkpoint.pth", {"state_dict": model.state_dict(), "config": record.to_dict()})
    QuantMode().apply(model)
    model.set_active_subnet(SMALLEST)
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32))
    record = replace(record, quant=QuantMode())
    save_checkpoint(target / "lsq.pth", {"state_dict": model.state_dict(), "config": record.to_dict()})
    (folder / "in.csv").write_text(f"onnxw_tiny,000000-000000,{SMALLEST}\n")
    printed = []
    for options in ((), ("--uint8_input",)):
        done = run_script("onnx_tools/export_onnx.py", "--input", folder / "in.csv", "--output_dir", folder / "models",
                          "--resume", folder, "--post_bn_calibration_batch_num", "2", "--debug", *options)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    return folder, printed


def test_export_reports_what_runs_in_float(exported):
    _, printed = exported
    for lines in printed:
        data, fp32, _, int8, *_ = lines.splitlines()
        assert data.startswith("data set digits: 10 classes")
        assert ": 0 of 96 images differ" in fp32  # on bytes too
        assert "runs 0 float convolutions" in int8
    assert "quantises 1 and dequantises 0" in printed[0]


def test_predict_names_the_likeliest_classes(exported, tmp_path):
    folder, _ = exported
    data = load_data("digits")
    source, index = data.test, data.test_indices[3]
    source.image(index).save(tmp_path / "digit.png")
    transform = eval_transform(32, replace(data.info, mean=MEAN, std=STD))
    image = next(iter(eval_batches(source, [index], transform, batch_size=1)))[0]
    for path in sorted((folder / "models").glob("*_quant_int8*.onnx")):
        logits = predict(open_model(path), image.numpy())[0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        best = np.argsort(-odds, kind="stable")[:5]
        done = run_script("onnx_tools/predict.py", "--model_path", path, tmp_path / "digit.png", tmp_path / "digit.png")
        assert done.returncode == 0, done.stderr
        expected = [(f"{100 * odds[i] / odds.sum():.2f}", str(i)) for i in best]
        assert re.findall(r"([\d.]+)%  (\d)", done.stdout) == 2 * expected
    done = run_script("onnx_tools/predict.py", "--model_path", path, folder / "in.csv")
    assert done.returncode == 2
    assert "in.csv" in done.stderr.splitlines()[-1]


def test_cards_and_their_report(exported):
    folder, _ = exported
    models = {tuple(name in path.name for name in ("int8", "pixels")): path
              for path in (folder / "models").glob("*.onnx")}
    assert len(models) == 4
    int8 = models[True, False]
    card, fp32 = read_card(card_path(int8)), read_card(card_path(models[False, False]))
    assert (card["precision"], card["placement"], card["input"]) == ("int8", "lsq", "normalised")
    assert read_card(card_path(models[True, True]))["input"] == "bytes"
    assert card["training"] == "supernet"
    assert card["subnet"] == SMALLEST
    assert card["images"] == 96
    assert card["accuracy"]["fp32"] == fp32["accuracy"]["engine"]
    assert fp32["accuracy"]["fp32"] is None
    top = card["accuracy"]["engine"]
    assert (top["low"], top["high"]) == wilson_interval(top["top1"] / 100, 96)
    assert card["agreement"]["percent"] == pytest.approx(100 - 100 * card["agreement"]["differing"] / 96)
    assert card["bytes"] == int8.stat().st_size
    assert card["mmacs"] == fp32["mmacs"] > 0
    assert card["checkpoint"]["file"] == "lsq.pth"
    assert card["checkpoint"]["sha256"] != fp32["checkpoint"]["sha256"]

    done = run_script("onnx_tools/report.py", folder / "models")
    assert done.returncode == 0, done.stderr
    assert "no card holds a latency" in done.stdout
    done = run_script("onnx_tools/benchmark.py", "--input", folder / "in.csv", "--model_dir", folder / "models",
                      "--output", folder / "latency.csv", "--num_runs", "3")
    assert done.returncode == 0, done.stderr
    assert read_card(card_path(int8))["latency"]["ms"] > 0
    done = run_script("onnx_tools/report.py", folder / "models", "--output", folder / "report.csv")
    assert done.returncode == 0, done.stderr
    assert len((folder / "report.csv").read_text().splitlines()) == 5
    assert (folder / "report.png").read_bytes()[1:4] == b"PNG"


def test_random_weights_never_replace_a_trained_file(exported):
    folder, _ = exported
    before = {path: path.read_bytes() for path in (folder / "models").iterdir()}
    done = run_script("onnx_tools/export_onnx.py", "--input", folder / "in.csv", "--output_dir", folder / "models",
                      "--skip_weights")
    assert done.returncode == 2
    assert "is a trained model, with a card beside it; random weights would replace it" in done.stderr
    done = run_script("onnx_tools/export_onnx.py", "--input", folder / "in.csv", "--output_dir", folder / "models",
                      "--weight_bits", "7")
    assert done.returncode == 2
    assert "--weight_bits 7 without --skip_weights; trained weights have the bits of their training" in done.stderr
    done = run_script("onnx_tools/export_onnx.py", "--input", folder / "in.csv", "--output_dir", folder / "models",
                      "--num_classes", "7")
    assert done.returncode == 2
    assert "--num_classes 7 without --skip_weights; a trained network has the classes of its training" in done.stderr
    assert {path: path.read_bytes() for path in (folder / "models").iterdir()} == before


def test_random_weights_have_the_classes_asked_for(tmp_path):
    """The classifier is part of the latency: a pipeline measures networks of its own classes."""
    done = run_script("onnx_tools/export_onnx.py", "--network", "resnet8_r16", "--skip_weights", "--num_classes", "7",
                      "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    for path in tmp_path.glob("*.onnx"):
        session = open_session(path)
        (answer,) = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 16, 16), np.float32)})
        assert answer.shape == (1, 7)


def test_a_card_tells_the_fp32_accuracy_of_the_same_images_alone(exported):
    card = next(path for path in (exported[0] / "models").glob("*.card.json") if "int8" not in path.name)
    facts, model = read_card(card), card.with_name(card.name.removesuffix(".card.json"))
    assert _fp32_accuracy(model, facts["dataset"], facts["images"]) == facts["accuracy"]["engine"]
    assert _fp32_accuracy(model, facts["dataset"], facts["images"] + 1) is None
    assert _fp32_accuracy(model, "birds", facts["images"]) is None
    assert _fp32_accuracy(card, facts["dataset"], facts["images"]) is None  # no such file, so no card


@pytest.mark.parametrize("name", ["checkpoint.pth", "lsq.pth"])
def test_a_checkpoint_file_is_exported_in_its_own_precision(exported, tmp_path, name):
    folder, _ = exported
    done = run_script("onnx_tools/export_onnx.py", "--input", folder / "in.csv", "--output_dir", tmp_path, "--resume",
                      folder / f"{SPACE}-align0" / name, "--post_bn_calibration_batch_num", "2", "--debug")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.onnx")
    assert path.stem.endswith("_int8") == (name == "lsq.pth")
    if name == "lsq.pth":
        done = run_script("onnx_tools/benchmark.py", "--input", folder / "in.csv", "--model_dir", tmp_path,
                          "--num_runs", "3", "--output", tmp_path / "latency.csv")
        assert done.returncode == 2
        assert f"time the int8 file alone: --model_path {path}" in done.stderr


def test_networks_are_timed_together_at_the_usual_speed(tmp_path, monkeypatch):
    """The larger network is slower in the same turns; the clock says that figures are scaled."""
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "cache"))
    networks = ["--network", "resnet20", "resnet8_r16"]
    done = run_script("onnx_tools/export_onnx.py", *networks, "--skip_weights", "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_script("onnx_tools/benchmark.py", *networks, "--model_dir", tmp_path, "--output",
                      tmp_path / "latency.csv", "--num_runs", "20", "--together", "--usual_speed")
    assert done.returncode == 0, done.stderr
    assert "times as slow as usual" in done.stdout
    with open(tmp_path / "latency.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == networks[1:]
    assert float(rows[0]["int8_ms"]) > float(rows[1]["int8_ms"]) > 0
    assert {row["clock"] for row in rows} == {"wall, usual speed"}


def test_rows_and_figure_of_cards(tmp_path, monkeypatch):
    card = {"model": "a_b_0123ab_quant_int8.onnx", "name": None, "supernet": "a-b", "subnet": "d1", "precision": "int8",
            "input": "normalised", "placement": "engine", "training": "alone", "dataset": "digits", "images": 10,
            "accuracy": {"fp32": None, "network": {"top1": 90.0, "low": 80.0, "high": 95.0},
                         "engine": {"top1": 91.0, "low": 81.0, "high": 96.0}},
            "agreement": {"percent": 99.0}, "mmacs": 2.5, "mparams": 0.1, "bytes": 1_500_000, "latency": None,
            "checkpoint": {"file": "lsq.pth", "sha256": "f" * 64}}
    for i, mmacs in enumerate((3.5, 2.5)):
        (tmp_path / f"{i}.card.json").write_text(json.dumps(card | {"mmacs": mmacs}))
    cards = read_cards([tmp_path])
    assert [c["mmacs"] for c in cards] == [2.5, 3.5]
    assert label(card) == "a 0123ab"
    assert label(card | {"name": "SEQnet@vnni-A0"}) == "SEQnet@vnni-A0"
    row = rows(cards)[0]
    assert (row["engine acc, %"], row["fp32 acc, %"], row["ms"], row["MB"]) == ("91.00 [81.00, 96.00]", "", "", "1.50")
    add_latency(tmp_path / "0", {"ms": 1.5, "spread_ms": 0.25})
    add_latency(tmp_path / "no such model", {"ms": 1.5})
    timed = read_cards([tmp_path])
    assert [row["ms"] for row in rows(timed)] == ["", "1.500 ± 0.250"]
    plot_cards(timed, tmp_path / "cards.png")
    assert (tmp_path / "cards.png").stat().st_size > 5000

    # Networks have a colour each, however many there are; their files of 7 bits share it.
    drawn = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: drawn.extend(figure.axes[0].containers))
    many = [card | {"supernet": f"net{i}", "latency": {"ms": 1.0 + i, "spread_ms": 0.1}} for i in range(12)]
    plot_cards([*many, many[3] | {"weight_bits": 7}], tmp_path / "cards.png")
    looks = {series.get_label(): (series.lines[0].get_color(), series.lines[0].get_fillstyle()) for series in drawn}
    seven = looks.pop("net3, trained alone int8 engine, weights of 7 bits")
    assert len({colour for colour, _ in looks.values()}) == 12
    assert seven == (looks["net3, trained alone int8 engine"][0], "top")


def test_what_is_no_card_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_cards([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no model card"):
        read_cards([tmp_path])
    (tmp_path / "x.card.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.card\.json"):
        read_cards([tmp_path])
    (tmp_path / "x.card.json").write_text("[]")
    with pytest.raises(UserError, match=r"model card .*it is \[\]; expected an object"):
        read_card(Path(tmp_path / "x.card.json"))


def test_lengths_of_an_interval_are_never_below_0():
    """As `errorbar` wants them; older cards have an end that rounding put inside the value."""
    assert interval_errors([100.0, 50.0], [96.0, 40.0], [99.99999999999999, 61.0]) == [[4.0, 10.0], [0.0, 11.0]]
