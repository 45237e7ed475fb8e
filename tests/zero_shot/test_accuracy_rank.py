"""Rankings of scores against accuracies: of separately trained networks, and of subnets of a supernet."""
import csv

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from modules.block_kd.lut import proxy_rank
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.zero_shot.accuracy_rank import evaluate_subnets, rank_by_accuracy, read_accuracies

SPACE = SupernetConfig.from_str("onnxw_tiny-053412-000000")
NETS = ("resnet8:0.25", "resnet8:0.5", "resnet8", "resnet20:0.5_r24", "mobilenet_v2:0.5")


@pytest.fixture
def rank(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "zen_nas"))
    import rank

    return rank


def test_accuracies_of_a_file(tmp_path):
    path = tmp_path / "nets.csv"
    path.write_text("network,acc1\n" + "".join(f"{name},{50 + 5 * i}\n" for i, name in enumerate(NETS)))
    networks = read_accuracies(path)
    assert [spec.resolution for spec, _ in networks] == [32, 32, 32, 24, 224]
    found = rank_by_accuracy(networks, ["Random", "Params", "QE"], 2, 0, "aggregate")
    assert list(found) == ["Flops", "Params", "Random", "QE", "aggregate"]
    params = [sum(p.numel() for p in QNetwork(spec).parameters()) for spec, _ in networks]
    assert found["Params"] == pytest.approx((kendalltau(params, range(5)).statistic, spearmanr(params, range(5))[0]))
    assert found["Params"] != found["Random"]
    for content, words in (("network,acc1\nresnet8,140\n", "expected percent"), ("network,acc1\n,40\n", "no network"),
                           ("enc,acc1\nd1,40\n", "no network"), ("network,acc1\nresnet8,40\n", "1 networks")):
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            read_accuracies(path)


def test_accuracies_of_one_supernet_and_one_precision(tmp_path):
    """eval_supernet.py appends all supernets and modes to one file; subnets of one may be legal in others."""
    path, choices = tmp_path / "accuracy.csv", [str(SubnetSpace(SPACE, (32,)).extreme(end)) for end in (min, max)]
    rows = [f"{choices[i % 2]},{50 + i},{SPACE},1\n" for i in range(4)]
    for extra, words in ((f"{choices[0]},60,onnxw_tiny-111111-000000,1\n", f"-111111-000000, not of {SPACE}"),
                         (f"{choices[0]},60,{SPACE},0\n", "expected those of one precision")):
        path.write_text("enc,acc1,supernet,quant_mode\n" + "".join([*rows, extra]))
        with pytest.raises(UserError, match=words):
            read_accuracies(path, SPACE)
    path.write_text("enc,acc1,supernet,quant_mode\n" + "".join(rows))
    assert len(read_accuracies(path, SPACE)) == 4


def test_classes_of_the_networks_count(rank, tmp_path):
    """With 10 classes, as the accuracies: 273, 163 and 78 thousand parameters (ResNet-20: He et al., 2016, table 6)."""
    path, options = tmp_path / "nets.csv", ["--zero_shot_score", "Random", "--output", str(tmp_path)]
    path.write_text("network,acc1\nresnet20,90\nmobilenet_v2_cifar:0.25,80\nresnet8,70\n")
    params = [count_net_flops_and_params(spec)[1] for spec, _ in read_accuracies(path, classes=10)]
    assert sorted(params) == params[::-1]
    for classes, tau in (("10", "1.0000"), ("1000", "0.3333")):
        rank.main(["--accuracies", str(path), "--num_classes", classes, *options])
        assert f"Params,3,{tau}," in (tmp_path / "rank_accuracy.csv").read_text()


def test_the_same_command_gives_the_same_numbers(rank, tmp_path, monkeypatch):
    draw = proxy_rank.draw_substages
    monkeypatch.setattr(proxy_rank, "draw_substages", lambda *args: draw(*args)[:12])
    options = ["--superspace", "onnxw_tiny", "--zero_shot_score", "Random", "--rows", "2", "--resolution", "48",
               "--output", str(tmp_path)]
    path, found = tmp_path / "rank_onnxw_tiny.csv", []
    for seed in ((), (), ("--seed", "0"), ("--seed", "1")):
        rank.main([*options, *seed])
        found.append(path.read_text())
    assert found[0] == found[1] == found[2] != found[3]


def test_subnets_of_a_trained_supernet(rank, tmp_path, capsys, monkeypatch):
    path = tmp_path / "lsq.pth"
    save_checkpoint(path, {
        "state_dict": Supernet(SPACE, 10, (32,)).state_dict(),
        "config": ModelRecord(str(SPACE), (32,), tuple("0123456789"), "digits").to_dict()})
    options = ["--superspace", "onnxw_tiny", "--supernet_choice", "053412-000000", "--checkpoint_path", str(path),
               "--fp32", "--num_subnets", "4", "--zero_shot_score", "QE", "--output", str(tmp_path), "--debug",
               "--data_loader_workers_per_gpu", "0", "--post_bn_calibration_batch_num", "1", "--seed", "3"]
    rank.main(options)
    with open(tmp_path / f"accuracies_{SPACE}.csv") as file:
        rows = list(csv.DictReader(file))
    evaluator = SubnetEvaluator.open(path, SPACE, quant_mode=False, calibration_batches=1, limit_batches=3, seed=3)
    rng = np.random.default_rng(3)
    for row in rows:
        choice = evaluator.model.subnets.sample(rng)
        assert row["network"] == f"{SPACE}-{choice}"
        assert float(row["acc1"]) == pytest.approx(evaluator.accuracy(choice).top1, abs=1e-3)
    before = (tmp_path / "rank_accuracy.csv").read_text()
    nets = [resolve(SPACE, SubnetChoiceConfig.from_str(row["network"].rpartition("-")[2]), 10) for row in rows]
    params = [count_net_flops_and_params(spec)[1] for spec in nets]
    expected = kendalltau(params, [float(row["acc1"]) for row in rows]).statistic
    assert f"Params,4,{expected:.4f}," in before
    assert "4 networks of" in capsys.readouterr().out
    monkeypatch.setattr(SubnetEvaluator, "accuracy", None)  # nothing is evaluated again
    rank.main(options)
    assert (tmp_path / "rank_accuracy.csv").read_text() == before
    accuracies = tmp_path / f"accuracies_{SPACE}.csv"
    assert [value for _, value in evaluate_subnets(evaluator, 3, accuracies)] == [float(r["acc1"]) for r in rows[:3]]
    with monkeypatch.context() as other:
        other.setattr(evaluator, "quant_mode", not evaluator.quant_mode)
        with pytest.raises(UserError, match=r"^int8 was "):
            evaluate_subnets(evaluator, 4, accuracies)
    for name, value in (("seed", 4), ("limit_batches", 2), ("valid_size", 60)):
        with monkeypatch.context() as other:
            other.setattr(evaluator, name, value)
            with pytest.raises(UserError, match=rf"^{name} was .* and is {value} now"):
                evaluate_subnets(evaluator, 4, accuracies)
    save_checkpoint(path, load_checkpoint(path) | {"epoch": 1})
    with pytest.raises(UserError, match=r"^checkpoint was "):
        evaluate_subnets(evaluator, 4, accuracies)
    enc = tmp_path / "subnets.csv"
    enc.write_text("enc,acc1\n" + "".join(f"{row['network'].rpartition('-')[2]},{row['acc1']}\n" for row in rows))
    assert read_accuracies(enc, SPACE, 10) == [(net, float(row["acc1"])) for net, row in zip(nets, rows, strict=True)]
