"""Subnets of a search trained on by one command: from the supernet's weights, with its largest subnet as teacher."""
import shutil
from dataclasses import replace

import pytest
import torch

from modules.modeling.restore import ModelRecord, checkpoint_folder
from modules.modeling.supernet import Supernet
from modules.search.subnet.tuning import _settings, tune
from modules.search_space.config import SupernetConfig
from modules.search_space.published import subnet_id
from modules.search_space.subnet_space import SubnetSpace
from modules.training.config import TrainConfig, load_yaml
from modules.training.recipe import answers
from modules.training.trainer import train
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from train_subnet import main

SPACE = SupernetConfig.from_choice("onnxw_tiny", "053412-000000")
SUBNETS = SubnetSpace(SPACE, (32,))
SUBNET = SUBNETS.extreme(min)
YAML = REPOSITORY / "supernet_training_configs" / "digits.yaml"
SHORT = {"epochs": 2, "warmup_epochs": 0, "quant_epochs": 1, "quant_warmup_epochs": 0, "debug_batches": 2,
         "valid_freq": 9, "valid_batches": 1, "eval_batch_size_per_gpu": 16, "post_bn_calibration_batch_num": 1,
         "base_lr": 0.2, "batch_size_per_gpu": 16}
FILES = ("checkpoint.pth", "lsq.pth")


@pytest.fixture(scope="module")
def supernets(tmp_path_factory):
    """A folder with an fp32 supernet of random weights."""
    folder = tmp_path_factory.mktemp("supernets")
    torch.manual_seed(0)
    model = Supernet(SPACE, 10, (32,)).train()
    model(torch.randn(8, 3, 32, 32))
    record = ModelRecord(str(SPACE), (32,), tuple("0123456789"), "digits", training={"augment": "default"})
    save_checkpoint(checkpoint_folder(folder, SPACE) / "checkpoint.pth",
                    {"state_dict": model.state_dict(), "config": record.to_dict()})
    return folder


@pytest.fixture(scope="module")
def tuned(supernets, tmp_path_factory):
    """The folder of the two checkpoints that the script wrote for the one subnet of a list."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "export.csv").write_text(f"onnxw_tiny,053412-000000,{SUBNET}\n" * 2)  # the best within two limits
    main(["--input", str(folder / "export.csv"), "--checkpoint_path", str(supernets), "--models_save_dir", str(folder),
          "--config-file", str(YAML), *(text for name, value in SHORT.items() for text in (f"--{name}", str(value)))])
    return checkpoint_folder(folder / subnet_id(SPACE, SUBNET), SPACE)


def settings(**changes):
    return TrainConfig(**load_yaml(YAML) | SHORT | changes)


def weights(path):
    return load_checkpoint(path)["state_dict"]


def assert_same(folder, tuned):
    for name in FILES:
        ours, theirs = weights(folder / name), weights(tuned / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs), name


def test_it_is_training_from_the_supernet_with_its_largest_subnet_as_teacher(supernets, tuned, tmp_path):
    path = checkpoint_folder(supernets, SPACE) / "checkpoint.pth"
    config = settings(models_save_dir=str(tmp_path), resolutions=(32,), subnet_choice=str(SUBNET),
                      init_checkpoint=str(path), teacher=(f"{SPACE}-{SUBNETS.extreme(max)}",),
                      teacher_checkpoint=str(path), teacher_strides=())
    folder = train(config, SPACE)
    train(replace(config, init_checkpoint="").for_quantization(), SPACE, quant_mode=True)
    assert_same(folder, tuned)
    start, end = weights(path), weights(tuned / "checkpoint.pth")
    moved = [(end[key] - start[key]).abs().max() for key in start if key.endswith("weight")]
    assert 0 < max(moved) < 1  # on from these weights, not from others


def test_stopped_it_goes_on_to_the_same_weights(supernets, tuned, tmp_path, monkeypatch):
    def stop(trainer, trainees):
        trainer.save()
        raise KeyboardInterrupt  # as if killed after the first epoch's file was written

    config = settings(models_save_dir=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("modules.training.trainer.SupernetTrainer.end_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            list(tune(config, [(SPACE, SUBNET)], supernets))
    folder, = tune(config, [(SPACE, SUBNET)], supernets, resume=True)
    assert_same(folder, tuned)


def test_a_teacher_that_answers_once_answers_once_for_all_subnets(supernets, tmp_path, monkeypatch):
    asked, ask = [], answers._ask
    monkeypatch.setattr(answers, "_ask", lambda *args: (asked.append(args[0]), ask(*args))[1])
    config = settings(models_save_dir=str(tmp_path), teacher_once=True, augment="shift", epochs=1)
    folders = list(tune(config, [(SPACE, SUBNET), (SPACE, SUBNETS.extreme(max))], supernets))
    assert len(asked) == 1
    assert not list(tmp_path.glob(f"*/*/{answers.ANSWERS}"))
    assert all((folder / name).is_file() for folder in folders for name in FILES)


def test_what_is_refused_for_the_last_subnet_is_refused_before_the_first_training(supernets, tuned, tmp_path):
    other = SPACE, SUBNETS.extreme(max)
    shutil.copytree(tuned.parent, tmp_path / tuned.parent.name)
    with pytest.raises(UserError, match=r"checkpoint\.pth' exists; continue it with --resume"):
        next(tune(settings(models_save_dir=str(tmp_path)), [other, (SPACE, SUBNET)], supernets))
    assert [path.name for path in tmp_path.iterdir()] == [tuned.parent.name]


def test_checkpoints_that_do_not_fit_are_refused_by_name(supernets, tuned, tmp_path, monkeypatch):
    config, path = settings(models_save_dir=str(tmp_path)), checkpoint_folder(supernets, SPACE) / "checkpoint.pth"
    with pytest.raises(UserError, match=r"lsq\.pth' of the supernet .* is an INT8 one; expected the checkpoint\.pth"):
        next(tune(config, [(SPACE, SUBNET)], tuned / "lsq.pth"))
    monkeypatch.chdir(path.parent)
    with pytest.raises(UserError, match="--teacher resnet20 without --teacher_checkpoint"):
        next(tune(replace(config, teacher=("resnet20",)), [(SPACE, SUBNET)], path.name))
    assert not list(tmp_path.iterdir())


def test_bad_input_is_refused_in_one_line(tmp_path):
    listed = tmp_path / "export.csv"
    with pytest.raises(UserError, match=r"list of subnets .* does not exist"):
        main(["--input", str(listed)])
    listed.write_text(f"onnxw_tiny,053412-000000,{SUBNET}\n")
    with pytest.raises(UserError, match=r"checkpoint of the supernet \(--checkpoint_path\)"):
        main(["--input", str(listed), "--checkpoint_path", str(tmp_path), "--config-file", str(YAML)])


def test_a_resolution_that_the_supernet_lacks_is_refused_before_the_first_training(supernets, tmp_path):
    other = replace(SUBNET, resolution=28)
    with pytest.raises(UserError, match="resolution 28"):
        list(tune(settings(models_save_dir=str(tmp_path)), [(SPACE, SUBNET), (SPACE, other)], supernets))
    assert not list(tmp_path.iterdir())


def test_a_given_checkpoint_of_the_largest_subnet_teaches(supernets, tmp_path):
    other = load_checkpoint(checkpoint_folder(supernets, SPACE) / "checkpoint.pth")
    save_checkpoint(tmp_path / "better.pth", {"state_dict": other["state_dict"], "config": other["config"]})
    found = _settings(settings(teacher_checkpoint=str(tmp_path / "better.pth")), SPACE, SUBNET, supernets)
    assert found.teacher == (f"{SPACE}-{SUBNETS.extreme(max)}",)
    assert found.teacher_checkpoint == str(tmp_path / "better.pth")


def test_int8_does_not_go_on_from_fp32_weights_that_changed(supernets, tuned, tmp_path):
    shutil.copytree(tuned, folder := tmp_path / tuned.name)
    checkpoint = load_checkpoint(folder / "checkpoint.pth")
    name = next(name for name in checkpoint["state_dict"] if name.endswith("conv.weight"))
    checkpoint["state_dict"][name] += 0.1
    save_checkpoint(folder / "checkpoint.pth", checkpoint)
    config = TrainConfig(**load_checkpoint(folder / "lsq.pth")["config"]["training"])
    with pytest.raises(UserError, match=r"lsq\.pth' was begun with other weights than those of '.*checkpoint\.pth'"):
        train(replace(config, models_save_dir=str(tmp_path)), SPACE, quant_mode=True, resume=True)
