"""The recipe of Zen-NAS: mixup, its initialisation and teacher-student training against closed forms; a stopped and
resumed run against an uninterrupted one."""
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign_models import FLOAT, METADATA, mean_classifier
from PIL import Image
from torch import nn

from modules.datasets.build import DataInfo
from modules.datasets.loading import train_batches
from modules.datasets.sources import ArraySource
from modules.datasets.transforms import eval_transform, train_transform
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.modeling.restore import load_supernet
from modules.modeling.supernet import Supernet
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.search_space.reference import read_network
from modules.training import trainer
from modules.training.config import TrainConfig, load_yaml
from modules.training.loop.trainee import Position
from modules.training.losses import smoothed_cross_entropy
from modules.training.precision import autocast
from modules.training.recipe.answers import ANSWERS, _of_network, open_teachers, teacher_answers
from modules.training.recipe.distillation import Distiller, Teacher, load_teacher
from modules.training.recipe.features import block_outputs, last_blocks
from modules.training.recipe.initialisation import initialise
from modules.training.recipe.mixup import mix
from modules.training.sandwich import _forward, step_generator, subnet_step
from modules.training.trainer import SupernetTrainer
from modules.utils.checkpoint import load_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

STUDENT, TEACHER = read_network("resnet8:0.25_r16"), read_network("resnet8:0.5")


def test_the_loss_of_mixed_images_is_the_mix_of_losses():
    torch.manual_seed(0)
    images, labels, logits = torch.randn(8, 3, 4, 4), torch.randint(10, (8,)), torch.randn(8, 10)
    mixed, target = mix(images, labels, 10, 0.2, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    share, order = rng.beta(0.2, 0.2), rng.permutation(8)
    torch.testing.assert_close(mixed, share * images + (1 - share) * images[order])
    a, b = (F.cross_entropy(logits.double(), y, label_smoothing=0.1) for y in (labels, labels[order]))
    loss = smoothed_cross_entropy(logits, target, 0.1)
    assert loss.item() == pytest.approx((share * a + (1 - share) * b).item(), rel=1e-6)


def test_custom_initialisation_has_the_published_deviations():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Conv2d(128, 128, 5, groups=128),
                        nn.Linear(200, 100))
    nn.init.constant_(net[1].weight, 3.0)
    initialise(net)
    dense, norm, depthwise, linear = net
    assert dense.weight.std().item() == pytest.approx(3.26033 * math.sqrt(2 / (9 * (64 + 128))), rel=0.02)
    assert depthwise.weight.std().item() == pytest.approx(3.26033 * math.sqrt(2 / (25 + 25 * 128)), rel=0.05)
    assert linear.weight.std().item() == pytest.approx(3.26033 * math.sqrt(2 / 300), rel=0.02)
    assert norm.weight.eq(1).all()
    assert not any(layer.bias.any() for layer in net)


def smooth_l1(a, b):
    distance = np.abs(a - b)
    return np.where(distance < 1, distance**2 / 2, distance - 0.5).mean()


def a_distiller(strides=(2, 4), **changes) -> tuple[Distiller, Supernet]:
    torch.manual_seed(0)
    spec = resolve(TEACHER.space, TEACHER.subnet, 10)
    teacher = Teacher(QNetwork(spec).eval().requires_grad_(False), last_blocks(spec, strides, "teacher"))
    student = Supernet(STUDENT.space, 10, (16,))
    student.set_active_subnet(STUDENT.subnet)
    how = {"feature_weight": 2.0, "logit_weight": 3.0, "clip": 0.5} | changes
    return Distiller(teacher, last_blocks(student.active_spec, strides, "student"), **how), student


def test_the_loss_from_a_teacher_is_the_published_one():
    """In float64: a feature of twice the size, resized bilinearly without antialiasing, is the mean of 2 x 2 values."""
    distiller, student = a_distiller()
    for projection in distiller.projections:
        nn.init.normal_(projection.weight, 0, 0.5)
        nn.init.normal_(projection.bias)
    images = torch.randn(4, 3, 32, 32)
    with distiller.watch(student) as features:
        logits = student.eval()(images)
    loss = distiller.loss(images, features, logits)

    x, theirs = images, {}
    for name, block in distiller.teacher.net.named_blocks():
        x = theirs[name] = block(x)
    log_q = (logits - logits.logsumexp(1, keepdim=True)).double().detach().numpy()
    expected = -3 * (x.double().softmax(1).numpy() * log_q).sum(1).mean()
    for name, mine, projection in zip(distiller.teacher.blocks, features.values(), distiller.projections, strict=True):
        feature = np.clip(theirs[name].double().numpy(), -0.5, 0.5)
        n, c, h, w = feature.shape
        feature = feature.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
        weight = projection.weight.double().detach().numpy()[:, :, 0, 0]
        projected = np.einsum("oc,nchw->nohw", weight, mine.double().detach().numpy())
        projected += projection.bias.double().detach().numpy()[:, None, None]
        expected += 2 * smooth_l1(projected, feature)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_step_in_bf16_learns_from_features_and_runs_the_teacher_in_bf16():
    distiller, student = a_distiller()
    images, labels, formats, losses = torch.randn(4, 3, 32, 32), torch.randint(10, (4,)), [], {}
    distiller.teacher.net.register_forward_hook(lambda net, x, y: formats.append(y.dtype))
    for amp in ("none", "bf16"):
        with distiller.watch(student) as features, autocast(amp, "cpu"):
            logits = student.eval()(images).float()
        losses[amp] = distiller.loss(images, features, logits, amp).item()
    assert losses["bf16"] == pytest.approx(losses["none"], rel=0.02)
    subnet_step(student.train(), images, labels, TrainConfig(dropout=0.0, amp="bf16"), step_generator(0, 0, 0),
                distiller)
    assert formats == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.projections.parameters())


def test_a_step_adds_the_gradients_of_labels_and_teacher():
    distiller, student = a_distiller(clip=0.0)
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    student.train()
    values = subnet_step(student, images, labels, TrainConfig(dropout=0.0), step_generator(0, 0, 0), distiller)
    found = [p.grad.clone() for p in (*student.parameters(), *distiller.projections.parameters()) if p.grad is not None]
    student.zero_grad()
    distiller.projections.zero_grad()
    small = F.interpolate(images, (16, 16), mode="bicubic", antialias=True)  # the student's pixels
    with block_outputs(student, distiller.names) as features:
        logits = student(small)
    label_loss = smoothed_cross_entropy(logits, labels)
    (label_loss + distiller.loss(images, features, logits)).backward()
    again = [p.grad for p in (*student.parameters(), *distiller.projections.parameters()) if p.grad is not None]
    for a, b in zip(found, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert values[0].item() == pytest.approx(label_loss.item(), rel=1e-5)
    assert not any(block._forward_hooks for stage in student.stages.values() for block in stage.blocks)


def test_the_gradient_of_the_logits_follows_the_temperature():
    """Hinton et al. (2015), section 2: T (softmax(z / T) - softmax(v / T)), which tends to (z - v) / K for logits of
    mean 0."""
    torch.manual_seed(4)
    z, v = (logits - logits.mean(1, keepdim=True) for logits in torch.randn(2, 8, 10, dtype=torch.float64))
    for temperature in (1.0, 3.0, 1e4):
        distiller, _ = a_distiller(strides=(), logit_weight=2.0, temperature=temperature)
        student = z.clone().requires_grad_()
        distiller.loss(torch.zeros(8, 3, 32, 32), {}, student, answers=v).backward()
        expected = 2 * temperature * ((z / temperature).softmax(1) - (v / temperature).softmax(1)) / 8
        torch.testing.assert_close(student.grad, expected)
    torch.testing.assert_close(student.grad, 2 * (z - v) / 80, rtol=1e-3, atol=1e-5)


def settings(folder, network, **changes) -> TrainConfig:
    published = load_yaml(REPOSITORY / "supernet_training_configs/zen_cifar.yaml")
    return TrainConfig(**published | {
        "dataset": "digits", "subnet_choice": str(network.subnet), "resolutions": (network.resolution,), "epochs": 2,
        "batch_size_per_gpu": 16, "warmup_epochs": 0, "data_loader_workers_per_gpu": 0, "debug_batches": 3,
        "post_bn_calibration_batch_num": 2, "valid_batches": 1, "print_freq": 1, "checkpoint_minutes": 0.0,
        "models_save_dir": str(folder), **changes})


class Stopped(Exception):
    """Stands for a kill."""


def test_a_stopped_and_resumed_run_with_a_teacher_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    SupernetTrainer(settings(tmp_path, TEACHER, epochs=1), TEACHER.space).run()
    how = {"teacher": ("resnet8:0.5",), "teacher_checkpoint": str(tmp_path), "teacher_strides": (2, 4)}
    whole, stopped = (settings(tmp_path / name, STUDENT, **how) for name in ("whole", "stopped"))
    first = SupernetTrainer(whole, STUDENT.space)
    first.run()
    assert first.distiller.resolution == 32

    step = SupernetTrainer.train_step

    def stop(self, *args):
        if (self.position.epoch, self.position.step) == (1, 1):
            raise Stopped
        return step(self, *args)

    monkeypatch.setattr(SupernetTrainer, "train_step", stop)
    with pytest.raises(Stopped):
        SupernetTrainer(stopped, STUDENT.space).run()
    monkeypatch.setattr(SupernetTrainer, "train_step", step)
    second = SupernetTrainer(stopped, STUDENT.space, resume=True)
    second.run()
    a, b = (load_checkpoint(trainer.path) for trainer in (first, second))
    assert (b["epoch"], b["step"]) == (2, 0)
    assert a["projections"]["0.bias"].any()
    for part in ("state_dict", "projections"):
        for key, tensor in a[part].items():
            assert torch.equal(tensor, b[part][key]), key
    again, _ = load_supernet(first.path, STUDENT.space, False)
    for net in (again, again.get_active_subnet()):
        assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    with pytest.raises(UserError, match=r"mixup was 0\.2"):
        SupernetTrainer(replace(stopped, mixup=0.0), STUDENT.space, resume=True).run()
    SupernetTrainer(settings(tmp_path / "another", TEACHER, epochs=1, seed=1), TEACHER.space).run()
    other = replace(stopped, teacher_checkpoint=str(tmp_path / "another"))
    with pytest.raises(UserError, match=r"--teacher resnet8:0\.5: its weights .* a continued run keeps its teacher"):
        SupernetTrainer(other, STUDENT.space, resume=True).run()

    for bad, words in (({"teacher_strides": (2, 32)}, "--teacher_strides 32: resnet8:0.5 .*allowed: 1, 2, 4"),
                       ({"teacher_checkpoint": str(tmp_path / "none")}, "checkpoint.pth' does not exist"),
                       ({"n_classes": 11}, "classes are not those of")):
        with pytest.raises(UserError, match=words):
            SupernetTrainer(replace(whole, models_save_dir=str(tmp_path / "bad"), **bad), STUDENT.space).run()
    with pytest.raises(UserError, match=r"--lighting 0\.1 with --augment shift"):
        replace(whole, augment="shift", random_erasing=0.0, lighting=0.1)


def test_teachers_that_answer_once_are_asked_for_nothing_else(tmp_path, monkeypatch, capsys):
    """A network and a model file; fp32, a stop, the rest, and int8. They see every training image once."""
    SupernetTrainer(settings(tmp_path, TEACHER, epochs=1), TEACHER.space).run()
    weight = np.random.default_rng(0).normal(0, 1, (3, 10)).astype(np.float32)
    file = mean_classifier(tmp_path / "other.onnx", [("i", FLOAT, [1, 3, 16, 16])], weight,
                           metadata=METADATA | {"mean": "[0.2, 0.3, 0.4]", "crop_size": "24", "eval_crop": "0.5"})
    config = settings(tmp_path / "student", STUDENT, teacher=("resnet8:0.5", str(file)), mixup=0.0, quant_epochs=1,
                      teacher_checkpoint=str(tmp_path), teacher_once=True, teacher_temperature=2.0)
    teachers, seen, steps, step = [], [], [], SupernetTrainer.train_step

    def counted(*args):
        teachers[:] = open_teachers(*args)
        return [replace(t, logits=lambda x, t=t: (seen.append(len(x)), t.logits(x))[1]) for t in teachers]

    def watched(self, batch, count):
        if (self.position.epoch, self.position.step) == (1, 1) and not self.files.continues:
            raise Stopped
        steps.append(batch)
        return step(self, batch, count)

    monkeypatch.setattr(trainer, "open_teachers", counted)
    monkeypatch.setattr(SupernetTrainer, "train_step", watched)
    first = SupernetTrainer(config, STUDENT.space)
    with pytest.raises(Stopped):
        first.run()
    SupernetTrainer(config, STUDENT.space, resume=True).run()
    SupernetTrainer(config.for_quantization(), STUDENT.space, quant_mode=True).run()
    data = first.data
    assert sum(seen) == 2 * len(data.train_indices)
    other = replace(config, label_smoothing=0.2, models_save_dir=str(tmp_path / "other"),
                    teacher_answers_dir=str(first.folder))
    SupernetTrainer(replace(other, epochs=1), STUDENT.space).run()
    assert sum(seen) == 2 * len(data.train_indices)
    told = capsys.readouterr().err
    assert "note: --teacher_once with --augment auto_augment: the teachers answer whole images" in told
    assert len(steps) == 12

    numbers = next(iter(first.batches(Position())))[1]
    usual = train_transform(config.augment, 16, data.info, config.random_erasing, config.lighting)
    images, labels = next(iter(train_batches(data, usual, batch_size=16, seed=config.seed, epoch=0)))
    pixels = [np.asarray(data.train.image(n).resize((48, 48), Image.Resampling.BICUBIC)) for n in numbers.tolist()]
    pixels = torch.from_numpy(np.stack(pixels)[:, 12:36, 12:36] / 255.0).permute(0, 3, 1, 2)  # half of the side
    mean = torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64).view(3, 1, 1)
    theirs = F.interpolate(pixels - mean, (16, 16), mode="bicubic").mean((2, 3)) @ torch.from_numpy(weight).double()
    inputs = torch.stack([eval_transform(32, data.info)(data.train.image(n)) for n in numbers.tolist()])
    ours = load_teacher("resnet8:0.5", config, first.record, data, torch.device("cpu"))[0]
    half = {"rtol": 2e-3, "atol": 2e-3}  # float16
    for found, expected in zip(steps[0], (images, labels, (ours(inputs) + theirs.float()) / 2), strict=True):
        torch.testing.assert_close(found.contiguous(), expected.contiguous(), **half)
    # Where a mirror image is of the same class, the answer is the mean of both; another question is answered anew.
    mirrored = replace(data, info=replace(data.info, hflip=True))
    again = teacher_answers(first.folder / ANSWERS, teachers[:1], mirrored, config, torch.device("cpu"), seen.append)
    torch.testing.assert_close(again[numbers].float(), (ours(inputs) + ours(inputs.flip(3))) / 2, **half)
    smaller, wide = copy.deepcopy(ours), replace(first.record, resolutions=(48,))
    smaller.resolution = 24
    theirs, others = _of_network(ours, wide, "weights"), _of_network(smaller, wide, "weights")
    assert theirs.saw == others.saw
    free = replace(wide, training={**wide.training, "any_resolution": True})  # evaluated at its own size
    assert (theirs.saw.crop_size, _of_network(smaller, free, "weights").saw.crop_size) == (48, 24)
    assert theirs.digest != others.digest  # the same weights at another size
    inverted = replace(mirrored, train=ArraySource(255 - data.train.pixels, data.train.classes, data.train.labels))
    before = len(seen)
    teacher_answers(first.folder / ANSWERS, teachers[:1], inverted, config, torch.device("cpu"), seen.append)
    assert len(seen) > before  # the same labels, other images
    teacher_answers(first.folder / ANSWERS, teachers[:1], mirrored, config, torch.device("cpu"), seen.append)
    silent = replace(teachers[0], logits=None)
    with pytest.raises(FileExistsError):
        teacher_answers(file / ANSWERS, [silent], mirrored, config, torch.device("cpu"), seen.append)
    right = (again.argmax(1).numpy() == data.train.labels)[data.train_indices].mean()
    count = len(data.train_indices)
    assert seen[-1] == f"{count} training images answered by 1 teacher, {100 * right:.2f} % of them rightly"

    for change, words in (({"mixup": 0.2}, r"--mixup 0\.2 with --teacher_once"),
                          ({"teacher_once": False}, "--teacher resnet8:0.5 .*; allowed: the name of one network, or"),
                          ({"teacher_once": False, "teacher": (str(file),)}, "allowed: the name of one network, or")):
        with pytest.raises(UserError, match=words):
            replace(config, **change)
    named = mean_classifier(tmp_path / "named.onnx", [("i", FLOAT, [1, 3, 16, 16])], weight,
                            metadata=METADATA | {"dataset": "birds"})
    few = mean_classifier(tmp_path / "few.onnx", [("i", FLOAT, [1, 3, 16, 16])], metadata={})
    for path, words in ((named, "the classes are not those of .*named.onnx"),
                        (few, "has 4 outputs, the data set has 10"),
                        (tmp_path / "none.onnx", "none.onnx' does not exist")):
        other = replace(config, teacher=(str(path),), models_save_dir=str(tmp_path / path.stem))
        with pytest.raises(UserError, match=words):
            SupernetTrainer(other, STUDENT.space).run()


def test_a_run_of_a_version_with_one_teacher_at_most_goes_on(tmp_path):
    config = settings(tmp_path, STUDENT, epochs=1)
    first = SupernetTrainer(config, STUDENT.space)
    first.run()
    checkpoint = load_checkpoint(first.path)
    checkpoint["config"]["training"]["teacher"] = ""
    torch.save(checkpoint, first.path)
    SupernetTrainer(config, STUDENT.space, resume=True).run()
    for written, read in (("''", ()), ("resnet8", ("resnet8",)), ("[resnet8, resnet20]", ("resnet8", "resnet20"))):
        (tmp_path / "config.yaml").write_text(f"teacher: {written}\n")
        assert load_yaml(tmp_path / "config.yaml") == {"teacher": read}
    checkpoint["config"]["training"]["teacher"] = "resnet8"
    torch.save(checkpoint, first.path)
    with pytest.raises(UserError, match=r"teacher was \['resnet8'\]"):
        SupernetTrainer(config, STUDENT.space, resume=True).run()


def test_a_student_sees_a_teachers_large_images_as_evaluation_loads_them():
    supernet = Supernet.build_from_str("onnxw_tiny-000000-000000", 10, (32,)).eval()
    large = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    small = torch.nn.functional.interpolate(large, (32, 32), mode="bicubic", antialias=True)
    logits = [_forward(supernet, images, TrainConfig(), np.random.default_rng(0))() for images in (large, small)]
    assert torch.equal(*logits)
    assert not torch.allclose(supernet(large), logits[0], atol=1e-5)  # without antialiasing


def test_the_policy_is_that_of_the_students_pixels():
    info = DataInfo("folder", ("a", "b"), IMAGENET_MEAN, IMAGENET_STD, hflip=True, crop_scale=(0.08, 1.0),
                    eval_crop=1.0)
    assert [train_transform("auto_augment", size, info, seen=seen).shifted for size, seen in (
        (32, 0), (96, 0), (96, 32))] == [True, False, True]
