"""Teachers: names, arithmetic against torchvision and TensorFlow's padding rule, files, training."""
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from processes import free_port, kill_when, run_script
from teacher_nets import B5, REGNET, TINY, images, lively, models
from torch import nn

from modules.block_kd.teacher import (
    CutTeacher,
    build_teacher,
    check_fits,
    load_teacher,
    register_teacher,
)
from modules.block_kd.teacher import __main__ as command
from modules.block_kd.teacher import registry as teacher_registry
from modules.block_kd.teacher.backbone import quantize_layers
from modules.block_kd.teacher.config import TeacherConfig
from modules.block_kd.teacher.efficientnet import Group, MBConv
from modules.block_kd.teacher.training import TeacherTrainer, evaluate_teacher
from modules.modeling.ops import fake_quant
from modules.modeling.ops.lsq_plus import QBase, set_quant_mode, to_published
from modules.modeling.quant_mode import PUBLISHED_QUANT
from modules.search_space.superspace import get_superspace
from modules.utils.checkpoint import load_checkpoint
from modules.utils.cli import run
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY


def test_published_form_of_the_whole_network(tmp_path):
    """Against torchvision's network with the published zeros put before its strided convolutions, and its epsilon."""
    reference = lively(models.efficientnet_b0())
    teacher = build_teacher("efficientnet-b0")
    state = {teacher.torchvision_key(key): value for key, value in reference.state_dict().items()}
    torch.save({"model": state}, tmp_path / "published.pth")
    for sequence in [m for m in reference.modules() if isinstance(m, nn.Sequential)]:
        for i, layer in enumerate(sequence):
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                before, after = {3: (0, 1), 5: (1, 2)}[layer.kernel_size[0]]
                layer.padding = (0, 0)
                sequence[i] = nn.Sequential(nn.ZeroPad2d((before, after, before, after)), layer)
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-3
    for kwargs in {"checkpoint": tmp_path / "published.pth"}, {"weights": tmp_path / "published.pth"}:
        loaded = load_teacher("efficientnet-b0", **kwargs)
        assert loaded.form == "tensorflow"
        with torch.no_grad():
            torch.testing.assert_close(loaded(images(64)), reference(images(64)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", [TINY, REGNET])
def test_one_pass_gives_all_stages(arch):
    teacher = lively(build_teacher(arch, 10))
    calls, run_segment = [], teacher.run_segment
    teacher.run_segment = lambda name, x: (calls.append(name), run_segment(name, x))[1]
    with torch.no_grad():
        found = teacher.features(images(40), ["stage4", "stage1", "stage3"])
        assert calls == list(teacher.segments[:teacher.segments.index("stage4") + 1])
        assert set(found) == {"stage1", "stage3", "stage4"}
        assert torch.equal(found["stage3"][1], found["stage4"][0])
        kept = [tensor.clone() for pair in found.values() for tensor in pair]
        logits, pooled = teacher.forward_to_stage(images(40), "logits")
        assert all(torch.equal(a, b) for a, b in zip(kept, (t for p in found.values() for t in p), strict=True))
        y, x = teacher.forward_to_stage(images(40), "stage3")
        assert torch.equal(x, found["stage3"][0])
        assert torch.equal(y, found["stage3"][1])
        assert torch.equal(logits, teacher(images(40)))
        assert pooled.ndim == 4  # the head's input is not pooled yet
        x, y = teacher.features(images(40), ["first_conv"])["first_conv"]
        assert torch.equal(x, images(40))
        assert y.shape[2:] == (20, 20)
    with pytest.raises(UserError, match=r"unknown stage of teacher .* 'stage7'; allowed: first_conv, .*logits"):
        teacher.features(images(40), ["stage7"])


def test_a_teaching_teacher_stays_as_it_is(tmp_path):
    torch.save({"model": build_teacher(TINY, 10).state_dict()}, tmp_path / "teacher.pth")
    teacher = load_teacher(TINY, tmp_path / "teacher.pth", num_classes=10)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    teacher.train()
    features = teacher.features(images(40), ["stage6"])["stage6"]
    assert not any(tensor.requires_grad for tensor in features)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


# -- int8 -----------------------------------------------------------------------------------------------------------


def test_int8_form_pads_before_it_quantises():
    """The published order: zeros lie in the range at the start, and with a float offset become the nearest code."""
    torch.manual_seed(0)
    block = lively(MBConv(8, Group(5, 2, 6, 16, 1), 16, 2, "tensorflow", {"eps": 1e-3}))
    set_quant_mode(quantize_layers(block), zero_point="float", narrow_range=False)
    conv, seen = block._depthwise_conv, {}
    conv.register_forward_hook(lambda m, inputs, output: seen.update(x=inputs[0], y=output))
    block(torch.rand(2, 8, 8, 8) + 3)
    assert seen["x"].shape == (2, 48, 11, 11)
    assert bool((seen["x"][:, :, 0] == 0).all())
    x = fake_quant.quantize_activation(seen["x"], conv.activation_scale, 8, conv.activation_beta, False, "float")
    w = fake_quant.quantize_weight(conv.weight, conv.weight_scale, 8, False, False)
    torch.testing.assert_close(seen["y"], nn.functional.conv2d(x, w, stride=2, groups=48), rtol=1e-5, atol=1e-5)
    assert conv.activation_beta.item() == seen["x"].min().item()
    assert x[0, 0, 0, 0].item() != 0  # zero has no code of its own here


def test_quantised_layers_keep_the_function():
    """With quantisers off nothing changes; switched on, the logits stay close."""
    for arch in TINY, REGNET:
        teacher = lively(build_teacher(arch, 10))
        with torch.no_grad():
            expected = teacher(images(64))
            quantize_layers(teacher)
            assert not any(type(m) in (nn.Conv2d, nn.Linear) for m in teacher.modules())
            assert torch.equal(teacher(images(64)), expected)
            error = (set_quant_mode(teacher)(images(64)) - expected).norm() / expected.norm()
        assert 0 < error < 0.3


def test_published_int8_file_loads(shared_json, tmp_path):
    """Under published names, with the quantisers of published checkpoints; it comes back unchanged."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in shared_json("facts", "state_dict_keys", "teacher_b5_lsq.keys.json").items():
        tracked = key.endswith("num_batches_tracked")
        state[key] = torch.tensor(7) if tracked else torch.rand(shape, generator=generator) + 0.01
    torch.save({"epoch": 0, "model": {f"module.{k}": v for k, v in state.items()}, "lr_schduler": {}, "optimizer": {}},
               tmp_path / "published.pth")
    teacher = load_teacher(B5, tmp_path / "published.pth", quant=True)
    back = to_published(teacher.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    layers = [m for m in teacher.modules() if isinstance(m, QBase)]
    assert all(m.initialized.all() and m.zero_point == "float" and not m.narrow_range for m in layers)
    assert teacher.record.quant == PUBLISHED_QUANT
    assert teacher.form == "tensorflow"
    with pytest.raises(UserError, match=r"is an LSQ\+ one; an fp32 teacher is needed"):
        load_teacher(B5, tmp_path / "published.pth")


# -- other backbones ------------------------------------------------------------------------------------------------


def test_another_backbone_registers_with_its_cut_points(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_registry.teachers, "_values", dict(teacher_registry.teachers._values))

    @register_teacher("test-resnet18", torchvision="resnet18")
    def build(num_classes, form):
        return CutTeacher(models.resnet18(num_classes=num_classes), {
            "first_conv": ("conv1", "bn1", "relu"), "stage1": ("maxpool", "layer1"), "stage2": ("layer2",),
            "stage3": ("layer3.0",), "stage4": ("layer3.1",), "stage5": ("layer4.0",), "stage6": ("layer4.1",),
            "logits": ("avgpool", nn.Flatten(), "fc")})

    reference = lively(models.resnet18())
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    teacher = load_teacher("test-resnet18", weights=tmp_path / "weights.pth")
    check_fits(teacher, get_superspace("onnxw"))
    with torch.no_grad():
        torch.testing.assert_close(teacher(images(75)), reference(images(75)))
        x, y = teacher.features(images(64), ["stage4"])["stage4"]
        torch.testing.assert_close(reference.layer3[1](x), y)
        assert x.min() >= 0  # not overwritten by the next block

    @register_teacher("test-misfit")
    def build_misfit(num_classes, form):
        return CutTeacher(models.resnet18(num_classes=num_classes), {
            "first_conv": ("conv1", "bn1", "relu", "maxpool"), "stage1": ("layer1",), "stage2": ("layer2",),
            "stage3": ("layer3",), "stage4": ("layer4.0",), "logits": ("layer4.1", "avgpool", nn.Flatten(), "fc")})

    with pytest.raises(UserError, match=r"stage1 of teacher 'test-misfit' goes from 16 to 16 pixels .* from 32 to 16"):
        check_fits(build_teacher("test-misfit"), get_superspace("onnxw"))
    del teacher.shapes["stage6"]
    with pytest.raises(UserError, match="has no stage6, which onnxw searches"):
        check_fits(teacher, get_superspace("onnxw"))


# -- training -------------------------------------------------------------------------------------------------------

QUICK = {"dataset": "digits", "teacher_arch": TINY, "resolution": (32, 40), "train_batch_size": 16,
         "eval_batch_size": 400, "num_workers": 0, "num_epochs": 2, "print_freq": 1, "checkpoint_minutes": 0.0,
         "bn_momentum": 0.1, "learning_rate": 1e-4}
OPTIONS = " ".join(f"--{name} {value}" for name, value in QUICK.items()).translate(str.maketrans("(,)", "   ")).split()
OPTIONS.append("--debug")


def config(folder, **settings) -> TeacherConfig:
    return TeacherConfig(**QUICK | {"output_path": str(folder), "debug": True} | settings)


def train(folder, quant_mode=False, **kwargs) -> TeacherTrainer:
    trainer = TeacherTrainer(config(folder), quant_mode=quant_mode, **kwargs)
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a briefly trained fp32 teacher and its int8 form."""
    folder = tmp_path_factory.mktemp("teacher")
    train(folder)
    train(folder, quant_mode=True)
    return folder


def assert_same_run(a, b) -> None:
    a, b = load_checkpoint(a), load_checkpoint(b)
    assert all(torch.equal(value, b["model"][key]) for key, value in a["model"].items())
    for i, state in a["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], b["optimizer"]["state"][i]["momentum_buffer"])
    assert a["history"] == b["history"]
    assert (a["epoch"], a["step"]) == (b["epoch"], b["step"]) == (1, 0)


def test_an_interrupted_and_resumed_run_ends_like_an_uninterrupted_one(trained, tmp_path):
    trainer, batches = TeacherTrainer(config(tmp_path)), []
    step = trainer.train_step

    def interrupted(*args):
        batches.append(args)
        if len(batches) == 7:
            raise KeyboardInterrupt
        return step(*args)

    trainer.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    state = load_checkpoint(tmp_path / "checkpoint.pth")
    assert (state["epoch"], state["step"]) == (0, 2)
    train(tmp_path, resume=True)
    assert_same_run(trained / "checkpoint.pth", tmp_path / "checkpoint.pth")
    lines = [(folder / "train.log").read_text().splitlines() for folder in (trained, tmp_path)]
    assert [line[22:] for line in lines[0]] == [line[22:] for line in lines[1]]  # but for the time
    with pytest.raises(UserError, match=r"learning_rate was 0\.0001 .* and is 0\.5 now"):
        TeacherTrainer(config(tmp_path, learning_rate=0.5), resume=True).run()


def test_a_killed_and_resumed_int8_run_ends_like_an_uninterrupted_one(trained, tmp_path):
    (tmp_path / "checkpoint.pth").write_bytes((trained / "checkpoint.pth").read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "modules.block_kd.teacher", "--quant_mode", "--output_path", str(tmp_path), *OPTIONS],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    # A moment later it is in the next step, or writes the checkpoint.
    kill_when(process, lambda: "epoch 1 | batch 1/4" in process.stdout.readline() and time.sleep(0.1) is None)
    state = load_checkpoint(tmp_path / "lsq.pth")
    assert (state["epoch"], state["step"]) in {(0, 0), (0, 1), (0, 2), (0, 3)}
    train(tmp_path, quant_mode=True, resume=True)
    assert_same_run(trained / "lsq.pth", tmp_path / "lsq.pth")


def test_files(trained):
    """Contents of the files. They load for teaching, and by themselves for int8 training and evaluation."""
    teacher = load_teacher(TINY, trained / "checkpoint.pth")
    record = teacher.record
    assert (record.arch, record.dataset, record.resolutions, record.quant) == (TINY, "digits", (32, 40), None)
    assert record.classes == tuple("0123456789")
    assert not any(isinstance(m, QBase) for m in teacher.modules())
    int8 = load_teacher(None, trained / "lsq.pth", quant=True)
    assert int8.record.quant.zero_point == "integer"
    assert all(m.nbits_a == 8 and m.initialized.all() for m in int8.modules() if isinstance(m, QBase))
    assert [line.split(" | ")[1] for line in (trained / "lsq_eval.log").read_text().splitlines()] == [
        "epoch 0", "epoch 1"]
    history = load_checkpoint(trained / "lsq.pth")["history"]
    bare = TeacherConfig(output_path=str(trained), num_workers=0)  # arch, data set and resolution from the file
    for resolution, accuracy in evaluate_teacher(bare, quant_mode=True).items():
        assert accuracy.top1 == history[-1][f"acc1@{resolution}"]
        assert accuracy.loss == pytest.approx(history[-1][f"loss@{resolution}"], rel=1e-4)
    assert (trained / "lsq.pth.json").is_file()
    assert not list(trained.glob(".*.tmp"))


def test_later_steps_find_the_folder_of_the_first(tmp_path):
    """int8 training and evaluation of a teacher that learned from a folder, without naming it again."""
    for i in range(16):
        path = tmp_path / "images" / ("val" if i % 4 == 0 else "train") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (16 * i, 0, 255 * (i % 2))).save(path)
    for name in "ab":  # both classes in both parts
        (tmp_path / "images" / "val" / name).mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / "val" / name / "more.png")
    config = TeacherConfig(output_path=str(tmp_path), teacher_arch=TINY, dataset_path=str(tmp_path / "images"),
                           resolution=(40,), num_epochs=1, train_batch_size=4, num_workers=0)
    TeacherTrainer(config).run()
    bare = TeacherConfig(output_path=str(tmp_path), num_workers=0, train_batch_size=4, num_epochs=1)
    TeacherTrainer(bare, quant_mode=True).run()
    assert load_teacher(None, tmp_path / "lsq.pth", quant=True).record.classes == ("a", "b")
    assert set(evaluate_teacher(bare, quant_mode=True)) == {40}


def test_training_leaves_no_decay_on_quantisers_and_learns(tmp_path):
    """Without learning rate nothing moves; a dozen steps on few images bring the loss down."""
    trainer = TeacherTrainer(config(tmp_path, learning_rate=3e-3, optimizer="adam", weight_decay=0.5))
    with trainer.files:
        trainer.build()
    decaying = {id(p) for p in trainer.optimizer.param_groups[0]["params"]}
    assert trainer.optimizer.param_groups[1]["weight_decay"] == 0
    names = {name.rpartition(".")[2] for name, p in trainer.model.named_parameters() if id(p) in decaying}
    assert names == {"weight"}
    assert sum(p.ndim > 1 for p in trainer.model.parameters()) == len(decaying)
    batch = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    trainer.model.train()
    first, *_, last = (float(trainer.train_step(batch, 15)[0]) for _ in range(15))
    assert last < 0.7 * first


def test_rate_and_divergence(tmp_path):
    cosine = config(tmp_path, learning_rate=1.0)
    expected = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(expected, 10)
    for i in range(10):
        assert cosine.rate(i // 5, i % 5, 5) == pytest.approx(scheduler.get_last_lr()[0])
        expected.step()
        scheduler.step()
    steps = config(tmp_path, learning_rate=1.0, lr_scheduler="step", lr_step_size=2, lr_gamma=0.5)
    assert [steps.rate(epoch, 3, 5) for epoch in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    trainer = TeacherTrainer(config(tmp_path, learning_rate=1e30))
    with pytest.raises(UserError, match=r"training diverged in epoch 0, batch \d; the last checkpoint .* is kept"):
        trainer.run()
    kept = load_checkpoint(tmp_path / "checkpoint.pth")["model"]
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())


def test_collapse_to_guessing_keeps_the_last_file(trained, tmp_path):
    """A loss of ln 10 after a good one is an error; a fresh network, which starts there, is none."""
    trainer = TeacherTrainer(config(tmp_path, learning_rate=0.0, num_epochs=1))
    trainer.run()
    assert load_checkpoint(tmp_path / "checkpoint.pth")["best_loss"] > 1
    good = load_checkpoint(tmp_path / "checkpoint.pth") | {"best_loss": 0.1}
    torch.save(good, tmp_path / "checkpoint.pth")
    int8 = TeacherTrainer(config(tmp_path, num_epochs=1, learning_rate=0.0), quant_mode=True)
    with pytest.raises(UserError, match=r"collapsed in epoch 0: .* of guessing 2\.30, the best so far was 0\.10"):
        int8.run()
    assert load_checkpoint(tmp_path / "lsq.pth")["step"] == 3


def test_weights_with_another_classifier_are_fine_tuned(tmp_path):
    """torchvision's file of 1000 classes: everything but the classifier is taken over, in torchvision's form."""
    reference = lively(models.efficientnet_b0())
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    settings = config(tmp_path, teacher_arch="efficientnet-b0", teacher_weights=str(tmp_path / "weights.pth"))
    trainer = TeacherTrainer(settings, quant_mode=True)
    with trainer.files:
        trainer.build()
    assert (trainer.model.form, trainer.model.num_classes) == ("torchvision", 10)
    assert trainer.record.quant is not None
    assert torch.equal(trainer.model._conv_head.weight, reference.features[8][0].weight)
    assert isinstance(trainer.model._fc, QBase)


def test_two_processes(tmp_path):
    """Under torchrun the saved statistics are those of both processes: the evaluation, of which each made a half, is
    that of one process with the file."""
    done = run_script("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port(),
                      "-m", "modules.block_kd.teacher", "--output_path", tmp_path, *OPTIONS, "--num_epochs", "1")
    assert done.returncode == 0, done.stderr
    history = load_checkpoint(tmp_path / "checkpoint.pth")["history"]
    accuracy = evaluate_teacher(config(tmp_path))[40]
    assert accuracy.images > 300
    assert accuracy.loss == pytest.approx(history[0]["loss@40"], rel=1e-5)
    assert (tmp_path / "train.log").read_text().count("epoch 0 | batch 4/4") == 1


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    (["--dataset", "digits", "--teacher_arch", "vgg"],
     "unknown teacher (--teacher_arch) 'vgg'; allowed: efficientnet-tiny, efficientnet-small"),
    (["--quant_mode"], "checkpoint.pth' does not exist"),
    (["--test_only", "--quant_mode"], "lsq.pth' does not exist"),
    (["--resolution", "16"], "--resolution 16; allowed: 32 to 8192 pixels"),
    (["--train_batch_size", "1"], "--train_batch_size 1; allowed: 2 or more"),
    (["--optimizer", "lamb"], "unknown value of --optimizer 'lamb'; allowed: sgd, sgd_nesterov, adam"),
    (["--bn_momentum", "0"], "--bn_momentum 0; allowed: above 0, at most 1"),
    (["--dataset", "digits", "--teacher_weights", "none.pth"], "file of weights 'none.pth' does not exist"),
])
def test_bad_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["teacher", "--output_path", str(tmp_path), "--num_workers", "0", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(command.main)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_bad_files(trained, tmp_path):
    def saved(name, content):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    fp32 = load_checkpoint(trained / "checkpoint.pth")
    cut = tmp_path / "cut.pth"
    cut.write_bytes((trained / "checkpoint.pth").read_bytes()[:10_000])
    supernet = saved("supernet.pth", {"state_dict": {"stages.0.weight": torch.ones(1)}, "config": {}})
    for path, kwargs, message in (
            (tmp_path / "none.pth", {}, "does not exist"),
            (cut, {}, "is damaged: File is not a zip file"),
            (supernet, {}, "has no weights under 'model'; it holds: state_dict, config"),
            (saved("student.pth", fp32 | {"config": {"stage": "stage1"}}), {}, "is no teacher's checkpoint"),
            (trained / "checkpoint.pth", {"quant": True}, r"is an fp32 one; .*--quant_mode --output_path"),
            (trained / "checkpoint.pth", {"arch": B5}, "is of efficientnet-tiny, not of efficientnet-b5"),
            (saved("foreign.pth", {"model": fp32["model"]}), {"arch": "efficientnet-b0"}, "does not fit the network"),
            (trained / "checkpoint.pth", {"num_classes": 100}, "has 10 classes, not 100")):
        with pytest.raises(UserError, match=message):
            load_teacher(**{"arch": TINY, "checkpoint": path, **kwargs})
    for weights, message in ((supernet, "it holds 'stages.0.weight'; allowed: a state dict of torchvision's"),
                             (saved("list.pth", {"a": [1]}), "is not a state dict; it holds: a")):
        with pytest.raises(UserError, match=message):
            load_teacher("efficientnet-b0", weights=weights)
    with pytest.raises(UserError, match="needs either a checkpoint"):
        load_teacher(TINY)
    with pytest.raises(UserError, match=r"exists; continue it with --resume, replace it with --overwrite"):
        TeacherTrainer(config(trained)).run()
    saved("checkpoint.pth", {"epoch": 0, "model": fp32["model"]})
    with pytest.raises(UserError, match="is a published file; its training cannot be continued"):
        TeacherTrainer(config(tmp_path), resume=True).run()
