"""Block distillation: a step against its parts, students that do not depend on each other, killed and resumed runs."""
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from processes import kill_when

from modules.block_kd.script import run_block_kd
from modules.block_kd.student.config import BlockKDConfig
from modules.block_kd.student.files import read_student
from modules.block_kd.student.model import StagePlusProj
from modules.block_kd.student.run import Batch
from modules.block_kd.student.space import stage_list, student_space
from modules.block_kd.student.training import BlockTrainer
from modules.block_kd.teacher import TeacherRecord, build_teacher, load_teacher
from modules.modeling.network import resize
from modules.modeling.ops.lsq_plus import QBase
from modules.modeling.quant_mode import QuantMode
from modules.modeling.tensors import TensorQuant
from modules.training.loop.trainee import Position
from modules.training.losses import noise_to_signal
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

ARCH = "efficientnet-tiny"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Files of a teacher with random weights: fp32 and LSQ+."""
    folder, paths = tmp_path_factory.mktemp("teacher"), {}
    for int8 in (False, True):
        torch.manual_seed(0)
        record = TeacherRecord(ARCH, tuple("0123456789"), dataset="digits", quant=QuantMode() if int8 else None)
        teacher = record.build().train()
        teacher(torch.randn(16, 3, 64, 64))
        paths[int8] = folder / ("lsq.pth" if int8 else "checkpoint.pth")
        save_checkpoint(paths[int8], {"model": teacher.state_dict(), "config": record.to_dict()})
    return paths


def make_config(folder, **changes):
    return BlockKDConfig(**{
        "superspace": "onnxw_tiny", "output_path": str(folder), "num_epochs": 1, "dataset": "digits", "valid_size": 40,
        "learning_rate_list": (0.005,) * 6, "num_workers": 0, "hw_list": (48, 64), "stage_list": ("stage2_2",),
        "train_batch_size": 16, "num_calib_batches": 1, "debug": True, "inplace_distill_from_teacher": True, **changes})


class CountingTeacher(torch.nn.Module):
    """The teacher, and how often it ran."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher, self.calls = teacher, []

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("teacher", "calls") else getattr(self.teacher, name)

    def state_dict(self, **options):
        return self.teacher.state_dict(**options)

    def features(self, images, stages):
        self.calls.append(tuple(images.shape))
        return self.teacher.features(images, stages)


@pytest.mark.parametrize("from_teacher", [True, False])
def test_a_step_adds_the_gradients_of_its_four_configurations(teachers, tmp_path, from_teacher):
    teacher = load_teacher(ARCH, teachers[False])
    config = make_config(tmp_path, inplace_distill_from_teacher=from_teacher, grad_clip_value=0.02, optimizer="sgd",
                         momentum=0.0, weight_decay=0.0)
    (task,) = BlockTrainer(config, teacher).tasks()
    (run,) = task.runs
    with run.files:
        run.build()
    twin = StagePlusProj("onnxw_tiny", "stage2", 2, *teacher.stages["stage2"]).train()
    twin.load_state_dict(run.student.state_dict())
    images, _ = next(iter(task.batches(Position())))

    from modules.block_kd.student.features import TeacherFeatures

    resolutions = [64, 48, 48, 64]
    run.learn(Batch(TeacherFeatures(teacher, "stage2", images), resolutions), lr=0.5)
    space = student_space("onnxw_tiny", "stage2", 2)
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0, 0, 1, 2)))
    for i, choice in enumerate((space.extreme(max), space.extreme(min), space.sample(rng), space.sample(rng))):
        target, x = teacher.forward_to_stage(resize(images, resolutions[i]), "stage2")
        if i and not from_teacher:
            twin.set_active(space.extreme(max))
            target = twin(x).detach()
        twin.set_active(choice)
        noise_to_signal(twin(x), target).backward()
    for (name, ours), reference in zip(run.student.named_parameters(), twin.parameters(), strict=True):
        step = 0 if reference.grad is None else 0.5 * reference.grad.clamp(-0.02, 0.02)
        torch.testing.assert_close(ours, reference - step, rtol=1e-4, atol=1e-6, msg=name)


def test_students_do_not_depend_on_each_other_and_share_the_teacher(teachers, tmp_path):
    states = {}
    for name, wanted in (("alone", ("stage2_2",)), ("together", ("stage2_0", "stage2_2", "stage2_5"))):
        teacher = CountingTeacher(load_teacher(ARCH, teachers[False]))
        BlockTrainer(make_config(tmp_path / name, stage_list=wanted), teacher).run()
        states[name] = load_checkpoint(tmp_path / name / "stage2_2" / "checkpoint.pth")
        # 4 training batches, 1 calibration batch and 1 evaluation batch, at two resolutions each
        assert len(teacher.calls) == 2 * (4 + 1 + 1)
    for key, value in states["alone"]["model"].items():
        assert torch.equal(value, states["together"]["model"][key]), key
    assert states["alone"]["history"] == states["together"]["history"]
    assert states["alone"]["epoch"] == 0
    assert not teacher.teacher.training
    log = (tmp_path / "together" / "stage2_0" / "train.log").read_text()
    assert "| epoch 0 | batch 4/4 | losses [" in log
    assert "eval losses (max min random): " in (tmp_path / "together" / "stage2_0" / "eval.log").read_text()


def test_int8_students_start_from_the_fp32_ones_with_every_quantiser_started(teachers, tmp_path):
    for name in ("stage2_3", "stage3_1"):
        config = make_config(tmp_path, stage_list=(name,))
        with pytest.raises(UserError, match="fp32 block student"):
            BlockTrainer(config, load_teacher(ARCH, teachers[True], quant=True), int8=True).run()
        BlockTrainer(config, load_teacher(ARCH, teachers[False])).run()
        teacher = load_teacher(ARCH, teachers[True], quant=True)
        zero = dataclasses.replace(config, learning_rate_list=(1e-12,) * 6)
        BlockTrainer(zero, teacher, int8=True).run()
        stage, block = name.split("_")
        fp32 = read_student(tmp_path / name / "checkpoint.pth", "onnxw_tiny", stage, int(block), teacher, False)[0]
        int8 = read_student(tmp_path / name / "lsq.pth", "onnxw_tiny", stage, int(block), teacher, True)[0]
        layers = [m for m in int8.modules() if isinstance(m, QBase)]
        assert all(all(m.initialized) and m.nbits_w == 8 for m in layers)
        for (key, a), b in zip(fp32.named_parameters(), int8.parameters(), strict=True):
            if key.endswith(".weight"):
                torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_quantisers_start_from_a_pass_as_in_training_and_statistics_stay(teachers, tmp_path):
    """The scale of an activation is its range in that pass over 255; those of running statistics are others."""
    config = make_config(tmp_path)
    BlockTrainer(config, load_teacher(ARCH, teachers[False])).run()
    teacher = load_teacher(ARCH, teachers[True], quant=True)
    run = BlockTrainer(config, teacher, int8=True).tasks()[0].runs[0]
    torch.manual_seed(0)
    with run.files:
        run.build()
        x = 2 * torch.randn(16, run.student.in_proj.in_channels, 12, 12)
        before = {name: buffer.clone() for name, buffer in run.student.named_buffers() if "running" in name}
        run.start_quantizers(x)
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in run.student.named_buffers() if name in before)

    fp32 = read_student(tmp_path / "stage2_2" / "checkpoint.pth", "onnxw_tiny", "stage2", 2, teacher, False)[0]
    scales, ratios = {name: m.activation_scale.item() for name, m in run.student.named_modules()
                      if isinstance(m, QBase)}, {True: [], False: []}
    for training, found in ratios.items():
        fp32.set_active(fp32.space.extreme(max))
        hooks = [m.register_forward_pre_hook(lambda m, x, name=name, found=found: found.append(
            scales[name] * 255 / (x[0].max().clamp(min=0) - x[0].min().clamp(max=0)).item()))
            for name, m in fp32.named_modules() if name in scales and isinstance(m, torch.nn.Conv2d)]
        with torch.no_grad():
            fp32.train(training)(x)
        for hook in hooks:
            hook.remove()
    assert len(ratios[True]) > 5
    assert max(abs(ratio - 1) for ratio in ratios[True]) < 0.1
    assert max(abs(ratio - 1) for ratio in ratios[False]) > 0.2


def test_int8_students_do_not_hold_out_images_that_fp32_was_trained_on(teachers, tmp_path):
    config = make_config(tmp_path)
    BlockTrainer(config, load_teacher(ARCH, teachers[False])).run()
    teacher = load_teacher(ARCH, teachers[True], quant=True)
    with pytest.raises(UserError, match="--valid_size 41: student stage2_2 held out 40 images"):
        BlockTrainer(dataclasses.replace(config, valid_size=41), teacher, int8=True).run()
    assert not (tmp_path / "stage2_2" / "lsq.pth").exists()


def test_int8_students_whose_tensors_own_their_quantisers(teachers, tmp_path):
    config = make_config(tmp_path, stage_list=("stage2_2",))
    BlockTrainer(config, load_teacher(ARCH, teachers[False])).run()
    teacher = load_teacher(ARCH, teachers[True], quant=True)
    BlockTrainer(dataclasses.replace(config, placement="engine"), teacher, int8=True).run()
    student, record, _ = read_student(tmp_path / "stage2_2" / "lsq.pth", "onnxw_tiny", "stage2", 2, teacher, True)
    assert record.quant.placement == "engine"
    owned = [m for m in student.modules() if isinstance(m, TensorQuant)]
    assert len(owned) > 20
    assert all(m.initialized[1] for m in owned)
    seen = {}
    for name, module in student.stage.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda m, x, name=name: seen.update({name: x[0].unique().numel()}))
    student.out_proj.register_forward_pre_hook(lambda m, x: seen.update({"out_proj": x[0].unique().numel()}))
    with torch.no_grad():
        student.eval()(torch.randn(2, student.in_proj.in_channels, 16, 16))
    assert len(seen) > 5
    assert max(seen.values()) <= 256


def test_the_learning_rate_is_that_of_torchs_scheduler(tmp_path):
    config = make_config(tmp_path, num_epochs=3, debug=False, lr_step_size=20)
    steps = 47
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.005)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps * 3 // 20)
    for epoch in range(3):
        for step in range(steps):
            assert config.learning_rate("stage1", epoch, step, steps) == pytest.approx(scheduler.get_last_lr()[0])
            optimizer.step()
            if step > 0 and step % 20 == 0:
                scheduler.step()
    by_epoch = dataclasses.replace(config, lr_scheduler="step", lr_step_size=2)
    assert [by_epoch.learning_rate("stage1", e, 0, 9) for e in range(5)] == pytest.approx(
        [0.005, 0.005, 0.0045, 0.0045, 0.00405])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 48 small training images in two classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "val"):
        for number in range(48):
            path = folder / part / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((48, 48)).save(path)
    return folder


def call(monkeypatch, int8, arguments):
    """The script in this process."""
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    run_block_kd("", int8)


def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(teachers, images, tmp_path, monkeypatch, capsys):
    for int8, script, name in ((False, "train_block_kd.py", "checkpoint.pth"), (True, "lsq_block_kd.py", "lsq.pth")):
        whole, killed = (
            ["--superspace", "onnxw_tiny", "--teacher_arch", ARCH, "--teacher_checkpoint_path", str(teachers[int8]),
             "--dataset_path", str(images), "--valid_size", "8", "--num_workers", "0", "--hw_list", "48",
             "--train_batch_size", "8", "--num_calib_batches", "1", "--stage_list", "stage2_0", "stage3_2",
             "--num_epochs", "2", "--checkpoint_minutes", "0", "--print_freq", "1", "--output_path",
             str(tmp_path / run)]
            for run in ("whole", "killed"))
        call(monkeypatch, int8, whole)
        process = subprocess.Popen([sys.executable, script, *killed], cwd=REPOSITORY, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        path = tmp_path / "killed" / "stage3_2" / name
        kill_when(process, lambda path=path: path.is_file() and (state := load_checkpoint(path))["epoch"] == 0
                  and state["step"] >= 1)
        assert load_checkpoint(path)["epoch"] == 0
        capsys.readouterr()
        call(monkeypatch, int8, [*killed, "--resume"])
        printed = capsys.readouterr().out
        assert "stage3_2" in printed
        assert "stage2_0" not in printed
        assert "epoch 0 | batch" not in printed
        for student in ("stage2_0", "stage3_2"):
            a, b = (load_checkpoint(tmp_path / run / student / name) for run in ("whole", "killed"))
            assert (a["epoch"], a["step"], a["history"]) == (b["epoch"], b["step"], b["history"])
            assert a["epoch"] == 1
            for key, value in a["model"].items():
                assert torch.equal(value, b["model"][key]), key
            for i, moments in a["optimizer"]["state"].items():
                assert torch.equal(moments["exp_avg_sq"], b["optimizer"]["state"][i]["exp_avg_sq"])
    for extra, word in (([], "exists; continue it with --resume"),
                        (["--resume", "--weight_decay", "0.5"], "weight_decay was 0.0001 when .* and is 0.5 now")):
        with pytest.raises(UserError, match=word):
            call(monkeypatch, True, [*whole, *extra])
    call(monkeypatch, True, [*whole, "--test_only"])
    evaluated = [line for line in capsys.readouterr().out.splitlines() if "eval losses" in line]
    log = (tmp_path / "whole" / "stage3_2" / "lsq_eval.log").read_text().splitlines()
    assert len(evaluated) == 2
    assert log[-1].split(" | ")[1:] == log[-2].split(" | ")[1:]


def test_a_missing_start_of_a_late_stage_is_told_before_the_first_training(teachers, images, tmp_path):
    config = make_config(tmp_path, stage_list=("stage2_0", "stage3_2"), dataset="", dataset_path=str(images),
                         valid_size=8, train_batch_size=8)
    BlockTrainer(dataclasses.replace(config, stage_list=("stage2_0",)), load_teacher(ARCH, teachers[False])).run()
    with pytest.raises(UserError, match=r"stage3_2.checkpoint\.pth' does not exist"):
        BlockTrainer(config, load_teacher(ARCH, teachers[True], quant=True), int8=True).run()
    assert not (tmp_path / "stage2_0" / "lsq.pth").exists()


def test_students_whose_progress_differs_meet_again(teachers, tmp_path):
    """A kill between two saves leaves one student a step ahead of the other."""
    teacher, states = load_teacher(ARCH, teachers[False]), {}
    for run in ("whole", "uneven"):
        config = make_config(tmp_path / run, stage_list=("stage2_0", "stage2_1"))
        trainer = BlockTrainer(config, teacher)
        if run == "uneven":
            (task,) = trainer.tasks()
            ahead = task.runs[1]
            with ahead.files:
                ahead.build()
                for step, batch in zip(range(2), task.batches(Position()), strict=False):
                    ahead.make_step(task.prepare(*batch, Position(0, step)), 4)
                ahead.save()
            trainer = BlockTrainer(config, teacher, resume=True)
        trainer.run()
        states[run] = [load_checkpoint(tmp_path / run / f"stage2_{block}" / "checkpoint.pth")["model"]
                       for block in (0, 1)]
    for whole, uneven in zip(states["whole"], states["uneven"], strict=True):
        assert all(torch.equal(value, uneven[key]) for key, value in whole.items())


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_kept(teachers, tmp_path, monkeypatch):
    config = make_config(tmp_path, num_epochs=2)
    monkeypatch.setattr(BlockKDConfig, "learning_rate", lambda _, stage, epoch, step, steps: 1e30 if epoch else 0.005)
    with pytest.raises(UserError, match=r"training of stage2_2 diverged in epoch 1.*learning_rate_list"):
        BlockTrainer(config, load_teacher(ARCH, teachers[False])).run()
    kept = load_checkpoint(tmp_path / "stage2_2" / "checkpoint.pth")
    assert (kept["epoch"], kept["step"]) == (0, 0)
    assert all(torch.isfinite(value).all() for value in kept["model"].values())


@pytest.mark.parametrize(("changes", "words"), [
    ({"stage_list": ("stage7_0",)}, ["stage7_0", "--stage_list", "stage1_0"]),
    ({"hw_list": (32,), "stage_list": ("stage6_0",)}, ["stage6", "one pixel"]),
    ({"learning_rate_list": (0.1,)}, ["has 1 values", "6"]),
    ({"optimizer": "lamb"}, ["lamb", "adam"]),
    ({"train_batch_size": 0}, ["--train_batch_size 0"]),
    ({"superspace": "nope"}, ["nope", "onnxw_tiny"]),
])
def test_settings_that_cannot_work_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        make_config(tmp_path, **changes)
    assert all(word in str(error.value) for word in words)


def test_stage_list_is_in_the_order_of_the_network():
    assert stage_list("onnxw", ["stage6_1", "stage2_5", "stage2_0"]) == {"stage2": [0, 5], "stage6": [1]}
    assert sum(map(len, stage_list("mobilew", None).values())) == 42


def test_a_continued_student_keeps_its_teacher(teachers, tmp_path):
    config, teacher = make_config(tmp_path), load_teacher(ARCH, teachers[False])
    BlockTrainer(config, teacher).run()
    with torch.no_grad():
        next(teacher.parameters()).mul_(1.5)
    with pytest.raises(UserError, match=r"stage2_2.checkpoint.pth' was distilled from other weights of efficientnet-t"):
        BlockTrainer(config, teacher, resume=True).run()
    with pytest.raises(UserError, match=r"stage2_2.checkpoint.pth' was distilled from other weights of efficientnet-t"):
        BlockTrainer(config, teacher, test_only=True).run()


def test_students_are_evaluated_on_images_that_their_training_held_out(teachers, tmp_path):
    config, teacher = make_config(tmp_path), load_teacher(ARCH, teachers[False])
    BlockTrainer(config, teacher).run()
    more = dataclasses.replace(config, valid_size=config.valid_size + 40)
    with pytest.raises(UserError, match="--valid_size 80: student stage2_2 held out 40 images"):
        BlockTrainer(more, teacher, test_only=True).run()


def test_int8_students_are_evaluated_without_the_fp32_ones(teachers, tmp_path, capsys):
    config, teacher = make_config(tmp_path), load_teacher(ARCH, teachers[True], quant=True)
    BlockTrainer(config, load_teacher(ARCH, teachers[False])).run()
    BlockTrainer(config, teacher, int8=True).run()
    (tmp_path / "stage2_2" / "checkpoint.pth").unlink()
    capsys.readouterr()
    BlockTrainer(config, teacher, int8=True, test_only=True).run()
    assert "eval losses" in capsys.readouterr().out


def test_a_student_of_another_kind_is_refused(teachers, tmp_path):
    teacher = load_teacher(ARCH, teachers[False])
    BlockTrainer(make_config(tmp_path), teacher).run()
    path = tmp_path / "stage2_2" / "checkpoint.pth"
    for arguments, word in ((("onnxw", "stage2", 2, teacher, False), "onnxw_tiny"),
                            (("onnxw_tiny", "stage2", 3, teacher, False), "stage2_2"),
                            (("onnxw_tiny", "stage2", 2, build_teacher("efficientnet-b0"), False), "b0"),
                            (("onnxw_tiny", "stage2", 2, teacher, True), "lsq_block_kd.py")):
        with pytest.raises(UserError, match=word):
            read_student(path, *arguments)
