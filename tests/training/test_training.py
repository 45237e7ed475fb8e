"""Training: settings, one sandwich step against its parts, a killed and resumed run against an uninterrupted one."""
import argparse
import itertools
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from processes import kill_when, run_script

from modules.datasets.loading import TransformedDataset
from modules.modeling.ops.lsq_plus import set_quant_mode
from modules.modeling.ops.op import QConv
from modules.modeling.quant_mode import QuantMode
from modules.modeling.restore import load_supernet
from modules.modeling.supernet import Supernet
from modules.search_space.config import SupernetConfig
from modules.training.config import TrainConfig, load_yaml
from modules.training.losses import adaptive_divergence, smoothed_cross_entropy
from modules.training.optimizer import build_optimizer, decay_groups, make_optimizer
from modules.training.precision import computes_bf16
from modules.training.sandwich import sandwich_step, step_generator
from modules.training.trainer import SupernetTrainer
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import NotFinite, UserError
from modules.utils.files import REPOSITORY

SPACE = "onnxw_tiny-000000-000000"
SCRIPT = ["train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "000000",
          "--config-file", "supernet_training_configs/digits.yaml", "--resolutions", "32", "--batch_size_per_gpu", "16",
          "--epochs", "2", "--quant_epochs", "2", "--debug_batches", "4", "--valid_freq", "2",
          "--post_bn_calibration_batch_num", "2", "--checkpoint_minutes", "0", "--print_freq", "1"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run_script(*SCRIPT, "--models_save_dir", folder, *arguments)


def kill_at_step(folder: Path, line: str, *arguments: str) -> None:
    """Start the script and kill it without warning as soon as `line` is logged."""
    process = subprocess.Popen([sys.executable, *SCRIPT, "--models_save_dir", str(folder), *arguments], cwd=REPOSITORY,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    kill_when(process, lambda: line in process.stdout.readline())


def assert_same_state(a: Path, b: Path) -> None:
    a, b = load_checkpoint(a), load_checkpoint(b)
    for key, value in a["state_dict"].items():
        torch.testing.assert_close(value, b["state_dict"][key], rtol=0, atol=0, msg=key)
    for i, state in a["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], b["optimizer"]["state"][i]["momentum_buffer"])
    assert a["history"] == b["history"]
    assert (a["epoch"], a["step"]) == (b["epoch"], b["step"]) == (2, 0)


def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for mode, name in ((), "checkpoint.pth"), (("--quant_mode",), "lsq.pth"):
        done = run(whole, *mode)
        assert done.returncode == 0, done.stderr
        kill_at_step(killed, "epoch 1 | step 1/4", *mode)
        state = load_checkpoint(killed / f"{SPACE}-align0" / name)
        assert (state["epoch"], state["step"]) in {(1, 0), (1, 1), (1, 2), (1, 3)}
        resumed = run(killed, *mode, "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert "epoch 0 | step" not in resumed.stdout
        assert_same_state(*(folder / f"{SPACE}-align0" / name for folder in (whole, killed)))
    refused = run(whole)
    assert refused.returncode == 2
    assert "exists" in refused.stderr
    changed = run(whole, "--resume", "--base_lr", "0.7")
    assert changed.returncode == 2
    assert "base_lr was 0.4" in changed.stderr
    fresh = run(tmp_path / "none", "--resume", "--epochs", "1", "--debug_batches", "1", "--valid_batches", "1")
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.splitlines()[0].startswith("--resume: no ")
    model, record = load_supernet(whole / f"{SPACE}-align0" / "lsq.pth", SupernetConfig.from_str(SPACE), True)
    assert record.dataset == "digits"
    assert record.resolutions == (32,)
    assert len(record.classes) == 10
    assert model.stages["first_conv"].blocks[0].conv.conv.nbits_a == 8
    assert (whole / f"{SPACE}-align0" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    kept = TrainConfig(**load_yaml(whole / f"{SPACE}-align0" / "config.yaml"))
    assert (kept.epochs, kept.base_lr, kept.resolutions) == (2, 0.4, (32,))


def tiny_supernet(choice: str = "012345") -> Supernet:
    torch.manual_seed(0)
    return Supernet.build_from_str(f"onnxw_tiny-{choice}", 10, (32,)).train()


@pytest.mark.parametrize("int8", [False, True])
def test_a_step_adds_the_gradients_of_its_subnets(int8):
    torch.manual_seed(3)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    config = TrainConfig(dropout=0.0)
    ours, reference = tiny_supernet(), tiny_supernet()
    if int8:
        for model in (ours, reference):
            set_quant_mode(model)
            model(images)  # starts the quantisers
    ours.zero_grad()
    reference.zero_grad()
    values = sandwich_step(ours, images, labels, config, step_generator(0, 1, 2))
    rng = step_generator(0, 1, 2)
    rng.integers(2**31)  # the seed of dropout
    logits = reference(images)
    total = smoothed_cross_entropy(logits, labels)
    for choice in (reference.subnets.sample(rng), reference.subnets.sample(rng), reference.subnets.extreme(min)):
        reference.set_active_subnet(choice)
        last = adaptive_divergence(reference(images), logits.detach())
        total = total + last
    total.backward()
    for (name, a), b in zip(ours.named_parameters(), reference.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert values[1].item() == pytest.approx(last.item(), rel=1e-4)
    assert len({p.grad is None for p in ours.parameters()}) == 2  # some parameters belong to no subnet of the step


def test_all_subnets_learn_from_the_labels_in_the_first_epochs(tmp_path):
    """Half an epoch of four steps: the losses logged for the smallest net are cross-entropies for two steps, as with
    in-place distillation off, and divergences from then on."""
    logs = {}
    for name, options in {"half": ("--label_epochs", "0.5"), "labels": ("--inplace_distill", "false"),
                          "always": ()}.items():
        done = run(tmp_path / name, "--epochs", "1", "--valid_batches", "1", *options)
        assert done.returncode == 0, done.stderr
        logs[name] = re.findall(r"epoch 0 \| step \d/4 \| (.*) \| min acc1", done.stdout)
        assert len(logs[name]) == 4
    assert logs["half"][:2] == logs["labels"][:2]
    assert logs["half"][:2] != logs["always"][:2]
    assert logs["half"][2] != logs["labels"][2]


def test_only_weights_decay():
    model = tiny_supernet()
    decaying, others = build_optimizer(model, TrainConfig()).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    decays = {names[id(p)] for p in decaying["params"]}
    assert decays == {n for n, p in model.named_parameters() if n.endswith("weight") and p.ndim > 1}
    assert (decaying["weight_decay"], others["weight_decay"]) == (1e-5, 0)
    assert len(decaying["params"]) + len(others["params"]) == len(names)


@pytest.mark.parametrize("kind", ["sgd_nesterov", "sgd", "adam"])
def test_a_step_leaves_a_scale_half_of_itself_and_changes_nothing_else(kind):
    """Against torch's optimisers; the second scale would fall below 0."""
    ours, theirs = QConv(3, 4, 3), QConv(3, 4, 3)
    theirs.load_state_dict(ours.state_dict())
    torch.nn.init.constant_(ours.weight_scale, 0.002)
    torch.nn.init.constant_(theirs.weight_scale, 0.002)
    plain = {"adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=0.9),
             "sgd_nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True)}[kind]
    plain = plain(decay_groups(theirs, 1e-4), lr=0.1)
    optimizer = make_optimizer(ours, kind, 0.1, 0.9, 1e-4)
    for step in range(2):
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            parameter.grad = torch.full_like(parameter, 0.3)
            other.grad = parameter.grad.clone()
        optimizer.step()
        plain.step()
        assert ours.weight_scale.item() == pytest.approx(0.001 / 2**step)
        assert theirs.weight_scale.item() < 0
        assert ours.activation_scale.item() == theirs.activation_scale.item() > 0.5
        assert torch.equal(ours.weight, theirs.weight)
    optimizer.zero_grad()  # in fp32 no scale has a gradient
    optimizer.step()


def test_steps_draw_alike_and_differ():
    draws = {tuple(step_generator(0, e, s).integers(1000, size=4)) for e in range(5) for s in range(5)}
    assert len(draws) == 25
    assert np.array_equal(step_generator(1, 2, 3).integers(9, size=5), step_generator(1, 2, 3).integers(9, size=5))


def test_step_and_image_of_one_number_draw_apart():
    source = argparse.Namespace(image=lambda index: index, labels=range(3))
    images = TransformedDataset(source, lambda image, rng: rng.integers(1000, size=4), seed=0)
    for epoch, number in itertools.product(range(3), range(3)):
        assert not np.array_equal(images[epoch, number][0], step_generator(0, epoch, number).integers(1000, size=4))


def test_train_yaml_holds_the_published_recipe():
    values = load_yaml(REPOSITORY / "supernet_training_configs" / "train.yaml")
    assert TrainConfig(**values) == TrainConfig()
    published = {"batch_size_per_gpu": 64, "epochs": 360, "warmup_epochs": 5, "base_lr": 0.1, "dropout": 0.2,
                 "label_smoothing": 0.1, "weight_decay_weight": 1e-5, "valid_freq": 5, "num_arch_training": 4,
                 "post_bn_calibration_batch_num": 20, "alpha_min": -1, "alpha_max": 1, "iw_clip": 5}
    assert {name: values[name] for name in published} == published
    quant = TrainConfig(batch_size_per_gpu=128).for_quantization()
    assert (quant.epochs, quant.warmup_epochs, quant.batch_size_per_gpu) == (50, 3, 64)
    assert quant.base_lr == pytest.approx(0.01)
    assert quant.for_quantization() == quant  # its saved settings are a file for --config-file too


@pytest.mark.parametrize(("text", "message"), [
    ("epoch: 3", "unknown setting in .*'epoch', nearest: epochs; allowed: .*epochs"),
    ("epochs: many", "'many' of .*epochs; expected INT"),
    ("epochs: 2.5", "2.5 of .*epochs; expected INT"),
    ("nesterov: 3", r"3 of .*nesterov; expected true\|false"),
    ("- 1", "expected 'name: value'"),
    ("a: [", "is not yaml"),
    ("epochs: 0", "epochs 0; allowed: 1 or more epochs"),
    ("optimizer: lion", "'lion'; allowed: sgd, adam"),
])
def test_malformed_settings_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        TrainConfig(**load_yaml(path))


def test_a_state_without_a_part_is_refused_in_one_line(tmp_path):
    """Each entry that a training goes on from, missing or of another form."""
    config = TrainConfig(dataset="digits", models_save_dir=str(tmp_path), resolutions=(32,), augment="default",
                         data_loader_workers_per_gpu=0, batch_size_per_gpu=4)
    trainer = SupernetTrainer(config, SupernetConfig.from_str(SPACE))
    with trainer.files:
        trainer.start()
    path = trainer.path
    whole = load_checkpoint(path)
    groups = whole["optimizer"]["param_groups"]
    for key, *values in (("epoch", "one", None), ("step", 1.5), ("best", float("nan"), "high"), ("history", {}),
                         ("optimizer", [], {"state": {}}, {"state": {}, "param_groups": groups[:1]}),
                         ("state_dict", 3)):
        for value in (*values, None):
            content = {k: v for k, v in whole.items() if k != key} | ({} if value is None else {key: value})
            torch.save(content, path)
            with pytest.raises(UserError, match=r"checkpoint\.pth'") as refused:
                SupernetTrainer(config, SupernetConfig.from_str(SPACE), resume=True).run()
            assert "\n" not in str(refused.value)
    torch.save(whole, path)
    trainer = SupernetTrainer(config, SupernetConfig.from_str(SPACE), resume=True)
    with trainer.files:
        trainer.start()
    assert trainer.position.epoch == 0


def test_a_checkpoint_of_another_space_is_refused(tmp_path):
    save_checkpoint(tmp_path / "x.pth", {"state_dict": {"w": torch.zeros(3)}})
    with pytest.raises(UserError, match="does not fit the network"):
        load_supernet(tmp_path / "x.pth", SupernetConfig.from_str(SPACE), False)


def test_divergence_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    done = run(tmp_path, "--base_lr", "1e8", "--warmup_epochs", "0", "--grad_clip_value", "0")
    assert done.returncode == 2
    assert "training diverged in epoch 0" in done.stderr
    state = load_checkpoint(tmp_path / f"{SPACE}-align0" / "checkpoint.pth")["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_what_is_refused_leaves_an_earlier_run_as_it_is(tmp_path):
    """A batch larger than all images together, where a last incomplete one is dropped, and another number of images."""
    assert run(tmp_path).returncode == 0
    folder = tmp_path / f"{SPACE}-align0"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = run(tmp_path, "--overwrite", "--batch_size_per_gpu", "5000")
    assert done.returncode == 2
    assert "batch size 5000 with drop_last leaves no batch" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    checkpoint = load_checkpoint(folder / "checkpoint.pth")
    save_checkpoint(folder / "checkpoint.pth", checkpoint | {"num_images": checkpoint["num_images"] + 20})
    done = run(tmp_path, "--resume")
    assert done.returncode == 2
    assert f"the number of training images was {checkpoint['num_images'] + 20} when" in done.stderr


def test_two_classes_may_begin_far_above_guessing(tmp_path):
    """The initial weights of MobileNets give losses of 2 to 3.5, where guessing gives 0.7."""
    trainer = SupernetTrainer(TrainConfig(models_save_dir=str(tmp_path)), SupernetConfig.from_str(SPACE))
    trainer.record, trainer.report = SimpleNamespace(classes=("a", "b")), Mock()
    trainer.optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    trainer.report_means([3.5, 3.5, 0.5], 5)
    with pytest.raises(UserError, match=r"diverged .* loss is 9\.3"):
        trainer.report_means([9.3, 9.3, 0.5], 5)


def test_a_last_step_that_ruins_the_weights_is_not_saved(tmp_path):
    """The loss of the only step is finite; the weights after it are not."""
    done = run(tmp_path, "--base_lr", "1e12", "--weight_decay_weight", "1e30", "--warmup_epochs", "0",
               "--debug_batches", "1", "--epochs", "1", "--valid_batches", "1")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "infinite" in done.stderr or "not finite" in done.stderr
    folder = tmp_path / f"{SPACE}-align0"
    assert [path.name for path in folder.glob("*.pth*")].count("checkpoint_best.pth") == 0
    state = load_checkpoint(folder / "checkpoint.pth")
    assert (state["epoch"], state["step"]) == (0, 0)
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


@pytest.mark.parametrize(("entry", "name"), [("state_dict", r"state_dict\.w"), ("optimizer", r"optimizer\.state\.0")])
def test_tensors_that_are_not_finite_are_not_written(tmp_path, entry, name):
    path, good = tmp_path / "x.pth", {"state_dict": {"w": torch.ones(2)}, "optimizer": {"state": [torch.ones(2)]}}
    save_checkpoint(path, good)
    bad = {"state_dict": {"w": torch.tensor([1.0, torch.nan])}, "optimizer": {"state": [torch.tensor([torch.inf])]}}
    with pytest.raises(NotFinite, match=rf"tensor '{name}' has become NaN or infinite"):
        save_checkpoint(path, good | {entry: bad[entry]})
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("mode", [None, QuantMode(), QuantMode(placement="engine")], ids=("fp32", "lsq", "engine"))
def test_bf16_autocast_trains_to_about_the_same_gradients(mode):
    torch.manual_seed(3)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    gradients, losses, scales = {}, {}, {}
    for amp in ("none", "bf16"):
        model = tiny_supernet()
        if mode:
            mode.apply(model)
        values = sandwich_step(model, images, labels, TrainConfig(dropout=0.0, amp=amp), step_generator(0, 0, 0))
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        if mode:
            scales[amp] = torch.cat([p.detach() for name, p in model.stages["stage1"].named_parameters()
                                     if name.endswith("_scale")])
        losses[amp] = values[0].item()
        gradients[amp] = model.stages["logits"].blocks[0].linear.weight.grad.flatten()
    # Codes turn one rounding into another: over 16 blocks the features of 8 images drift apart.
    assert losses["bf16"] == pytest.approx(losses["none"], rel=0.15 if mode else 0.02)
    assert losses["bf16"] != losses["none"]
    if mode:
        torch.testing.assert_close(scales["bf16"], scales["none"], rtol=0.05, atol=0)
        return
    assert torch.cosine_similarity(gradients["bf16"], gradients["none"], dim=0) > 0.8


def test_amp_auto_measures_says_so_and_a_resumed_run_keeps_the_choice(tmp_path):
    done = run(tmp_path, "--amp", "auto", "--epochs", "1", "--debug_batches", "2")
    line = next(line for line in done.stdout.splitlines() if "amp auto" in line)
    seconds = [float(value) for value in re.findall(r"([0-9.]+) s in", line)]
    chosen = line.rpartition("training with amp ")[2]
    if not computes_bf16(torch.device("cpu")):
        assert (seconds, chosen) == ([], "none")
    elif seconds[0] != seconds[1]:  # as printed
        assert chosen == ("bf16" if seconds[1] < seconds[0] else "none")
    path = tmp_path / f"{SPACE}-align0" / "checkpoint.pth"
    assert load_checkpoint(path)["amp"] == chosen
    same = run(tmp_path / "plain", "--amp", chosen, "--epochs", "1", "--debug_batches", "2")
    assert same.returncode == 0
    ours, plain = (load_checkpoint(p)["state_dict"] for p in (path, tmp_path / "plain" / path.relative_to(tmp_path)))
    assert all(torch.equal(value, plain[key]) for key, value in ours.items())  # measuring changed nothing
    other = {**load_checkpoint(path), "amp": "bf16" if chosen == "none" else "none"}
    save_checkpoint(path, other)
    resumed = run(tmp_path, "--amp", "auto", "--epochs", "1", "--debug_batches", "2", "--resume")
    assert resumed.returncode == 0
    assert "amp auto" not in resumed.stdout
    assert load_checkpoint(path)["amp"] == other["amp"]
