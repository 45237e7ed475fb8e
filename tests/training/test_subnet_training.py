"""One subnet trained alone: its step, the unchanged weights, and later tools on its checkpoint."""
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from modules.datasets.build import load_data
from modules.deploy.graph.graph import WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.to_onnx.writer import onnx_bytes
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import HEAD, Supernet
from modules.runtime.ort import open_session
from modules.runtime.session import predict
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.config import TrainConfig
from modules.training.losses import smoothed_cross_entropy
from modules.training.sandwich import step_generator, subnet_step
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.training.trainer import SupernetTrainer, train
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.settings import idle_settings

SPACE = SupernetConfig.from_str("onnxw_tiny-053412-000000")
MIDDLE = SubnetChoiceConfig.from_str(str(Supernet(SPACE, 10, (32,)).subnets.sample(np.random.default_rng(5))))


def settings(folder, **changes) -> TrainConfig:
    return TrainConfig(**{
        "dataset": "digits", "augment": "default", "resolutions": (32,), "batch_size_per_gpu": 16, "epochs": 1,
        "quant_epochs": 1, "warmup_epochs": 0, "quant_warmup_epochs": 0, "debug_batches": 3,
        "data_loader_workers_per_gpu": 0, "post_bn_calibration_batch_num": 2, "valid_batches": 1,
        "weight_decay_weight": 0.0, "models_save_dir": str(folder), "subnet_choice": str(MIDDLE), **changes})


def test_a_step_has_the_gradients_of_the_subnet_on_its_labels():
    torch.manual_seed(0)
    model = Supernet(SPACE, 10, (32,)).train()
    model.set_active_subnet(MIDDLE)
    twin = model.get_active_subnet()
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    values = subnet_step(model, images, labels, TrainConfig(dropout=0.0), step_generator(0, 0, 0))
    logits = twin(images)
    loss = smoothed_cross_entropy(logits, labels)
    loss.backward()
    assert values.tolist() == pytest.approx([loss.item()] * 2 + [(logits.argmax(1) == labels).float().mean().item()])
    ours = model.stages["stage6"].blocks[0]
    theirs = twin.stages["stage6"][0]
    found = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            part = found[name].grad[tuple(slice(n) for n in parameter.shape)]
            torch.testing.assert_close(part, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert model.get_active_subnet_config() == MIDDLE


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A start file, and the folder of the subnet fine-tuned from it, fp32 and then int8 under placement "engine"."""
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(1)
    start = Supernet(SPACE, 10, (32,))
    save_checkpoint(folder / "start.pth", {"state_dict": start.state_dict()})
    config = settings(folder / "tuned", init_checkpoint=str(folder / "start.pth"), base_lr=0.5)
    train(config, SPACE)
    train(settings(folder / "tuned", placement="engine").for_quantization(), SPACE, quant_mode=True)
    return folder, folder / "tuned" / f"{SPACE}-align0"


def test_fine_tuning_starts_from_the_given_weights_and_moves_those_of_the_subnet_only(tuned):
    folder, target = tuned
    before, after = (load_checkpoint(path)["state_dict"] for path in (folder / "start.pth", target / "checkpoint.pth"))
    model = Supernet(SPACE, 10, (32,))
    model.set_active_subnet(MIDDLE)
    used = {}
    for name, parameter in model.get_active_subnet().named_parameters():
        stage, block, rest = name.split(".", 3)[1:]
        parts = rest.split(".")
        if parts[-3:-2] == ["dwconv"] and parts[-2].isdigit():
            parts[-2] = f"dwconv{parts[-2]}"
        used[f"stages.{stage}.blocks.{block}.{'.'.join(parts)}"] = parameter
    moved = 0
    for name, _ in model.named_parameters():
        a, b = before[name], after[name]
        if name not in used:
            assert torch.equal(a, b), name
        elif name.endswith("conv.weight") and a.shape[2] == used[name].shape[2]:
            part = tuple(slice(n) for n in used[name].shape)
            moved += not torch.equal(a[part], b[part])
            outside = torch.ones_like(a, dtype=torch.bool)
            outside[part] = False
            assert torch.equal(a[outside], b[outside]), name
    assert moved > 10
    history = load_checkpoint(target / "checkpoint.pth")["history"]
    assert [sorted(entry) for entry in history] == [["epoch", "subnet"]]
    assert (target / "curves.png").is_file()


@pytest.mark.parametrize("one", [True, False])
def test_small_images_come_first_and_int8_training_has_none(tmp_path, one):
    """A third of the steps each at 16 and 24 pixels and at the full size; validation and INT8 at the full size."""
    choice = str(MIDDLE) if one else ""
    config = settings(tmp_path, subnet_choice=choice, progressive_resolutions=(16, 24), epochs=3, debug_batches=1,
                      resolutions=(32,) if one else (20, 32), placement="engine")
    for quant_mode, expected in ((False, {0: {16}, 1: {24} if one else {20, 24}, 2: {32} if one else {20, 32}}),
                                 (True, {0: {32} if one else {20, 32}})):
        trainer = SupernetTrainer(config.for_quantization() if quant_mode else config, SPACE, quant_mode=quant_mode)
        seen, make = {}, trainer._make_model

        def watched(trainer=trainer, seen=seen, make=make):
            model = make()
            model.stages["first_conv"].register_forward_pre_hook(lambda _, args: seen.setdefault(
                trainer.position.epoch, set()).add(args[0].shape[-1]) if model.training else None)
            return model

        trainer._make_model = watched
        trainer.run()
        assert seen.keys() == expected.keys()
        for epoch, sides in expected.items():
            assert {max(sides)} <= seen[epoch] <= sides


def test_limits_that_limit_nothing_are_refused_before_a_training(tmp_path):
    for changes in ({}, {"subnet_choice": "", "resolutions": (24, 32)}):
        with pytest.raises(UserError, match=r"--progressive_resolutions 16 32; allowed: below 32"):
            SupernetTrainer(settings(tmp_path, progressive_resolutions=(16, 32), **changes), SPACE)


@pytest.mark.parametrize(("changes", "told"), [
    ({"num_arch_training": 5, "alpha_min": 0.0}, ["--num_arch_training has no effect with --subnet_choice",
                                                  "--alpha_min has no effect with --subnet_choice"]),
    ({"subnet_choice": "", "num_arch_training": 5, "alpha_min": 0.0}, []),
    ({"subnet_choice": "", "inplace_distill": False, "iw_clip": 4.0},
     ["--iw_clip has no effect with --inplace_distill false"]),
    ({"teacher_feature_weight": 2.0}, ["--teacher_feature_weight has no effect without --teacher"]),
    ({"teacher_feature_weight": 2.0, "teacher": ("resnet8",)}, []),
    ({"teacher_feature_weight": 2.0, "teacher": ("resnet8",), "teacher_once": True},
     ["--teacher_feature_weight has no effect with --teacher_once true"]),
    ({"optimizer": "adam", "momentum": 0.8}, ["--momentum has no effect with --optimizer adam"]),
    ({"momentum": 0.8}, []),
    ({"schedule": "linear", "clamp_lr_percent": 0.1}, ["--clamp_lr_percent has no effect with --schedule linear"]),
    ({"new_head": True}, ["--new_head has no effect without --init_checkpoint"])])
def test_given_settings_without_effect_are_told(tmp_path, changes, told):
    lines = idle_settings(settings(tmp_path, **changes), changes)
    assert len(lines) == len(told)
    assert all(line.startswith(words) for line, words in zip(lines, told, strict=True))


def begin(config, **mode):
    """The state of a training before its first step."""
    trainer = SupernetTrainer(config.for_quantization() if mode.get("quant_mode") else config, SPACE, **mode)
    with trainer.files:
        trainer.start()
    return load_checkpoint(trainer.path)


@pytest.mark.parametrize(("start", "size", "held_out"), [
    ({"valid_size": 0}, 240, 0), ({"valid_size": 100}, 240, 100), ({"valid_size": 240}, 240, 240),
    ({"valid_size": 300}, 240, 240), ({"valid_size": 240}, 0, 0), ({}, 240, 0),
    ({"dataset": "moved_digits"}, 240, 240), ({"classes": ["cat", "dog"]}, 240, 240), (None, 240, 240)])
def test_held_out_are_the_images_that_neither_training_sees(tmp_path, start, size, held_out):
    trainer = SupernetTrainer(settings(tmp_path, valid_size=size), SPACE)
    trainer.data = load_data("digits")
    record = ModelRecord(str(SPACE), (32,), tuple("0123456789"), "digits").to_dict()
    if start is not None and "valid_size" not in start:
        del record["valid_size"]  # as in old files
    assert trainer._held_out(tmp_path, {} if start is None else {"config": record | start}) == held_out


def test_a_file_remembers_the_images_of_all_its_trainings(tmp_path, capsys):
    begin(settings(tmp_path))
    for resume in (False, True):
        record = begin(settings(tmp_path, valid_size=240), quant_mode=True, resume=resume)["config"]
        assert (record["valid_size"], record["training"]["valid_size"]) == (0, 240)
        assert ("trained on 240 of the 240 images" in capsys.readouterr().err) != resume
    SubnetEvaluator.open(tmp_path / f"{SPACE}-align0" / "lsq.pth", SPACE, quant_mode=True, valid_size=100)
    assert "warning: the checkpoint was trained on 100 of the 100 images" in capsys.readouterr().err


def test_a_new_head_and_its_calibration_belong_to_a_given_start(tmp_path):
    """The int8 training of the same folder goes on with the trained classifier."""
    start = begin(settings(tmp_path))["state_dict"]
    later = begin(settings(tmp_path, new_head=True, calibration_path="nowhere", seed=7), quant_mode=True)["state_dict"]
    weights = [key for key in start if key.startswith(HEAD) and key.endswith("weight")]
    assert weights
    assert all(torch.equal(start[key], later[key]) for key in weights)


def test_later_tools_take_the_subnet_and_refuse_others(tuned):
    _, target = tuned
    evaluator = SubnetEvaluator.open(target / "lsq.pth", SPACE, quant_mode=True, calibration_batches=2, limit_batches=1)
    assert evaluator.record.only_subnet == MIDDLE
    assert evaluator.accuracy(MIDDLE).images == 32
    assert lower(evaluator.subnet(MIDDLE), evaluator.calibration).quantizers
    with pytest.raises(UserError, match="was trained there"):
        evaluator.subnet(evaluator.model.subnets.extreme(max))


def test_weights_of_seven_bits_are_trained_and_stay_within_them_in_the_file(tuned, tmp_path):
    _, target = tuned
    config = settings(tmp_path, placement="engine", quant_weight_bits=7, init_checkpoint=str(target / "lsq.pth"),
                      quant_base_lr_factor=0.0)
    train(config.for_quantization(), SPACE, quant_mode=True)
    path = tmp_path / f"{SPACE}-align0" / "lsq.pth"
    before, after = (load_checkpoint(file)["state_dict"] for file in (target / "lsq.pth", path))
    scales = [name for name in before if name.endswith("weight_scale")]
    for name in scales:  # nothing was learned: the ranges are the old ones, with half of the codes
        torch.testing.assert_close(after[name] * 63, before[name] * 127)

    evaluator = SubnetEvaluator.open(path, SPACE, quant_mode=True, calibration_batches=2, limit_batches=1)
    net, images = evaluator.subnet(MIDDLE), torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    graph = lower(net, evaluator.calibration)
    largest = [np.abs(node.codes.astype(int)).max() for node in graph.nodes if isinstance(node, WeightNode)]
    assert max(largest) == 63
    assert min(largest) > 31
    with torch.no_grad():
        trained = net(images).numpy()
    in_file = predict(open_session(onnx_bytes(graph)), images.numpy())
    error = np.abs(in_file - trained).max(1) / np.abs(trained).max()
    assert np.median(error) < 1e-5
    assert error.max() < 0.1  # rounding at a tie moves single images


def test_a_start_or_subnet_that_does_not_fit_is_refused(tuned, tmp_path):
    folder, _ = tuned
    other = SupernetConfig.from_str("onnxw_tiny-000000-000000")
    with pytest.raises(UserError, match="does not fit the network"):
        train(settings(tmp_path, subnet_choice="", init_checkpoint=str(folder / "start.pth")), other)
    with pytest.raises(UserError, match=r"checkpoint of --init_checkpoint .*nowhere\.pth.* does not exist"):
        train(settings(tmp_path, init_checkpoint="nowhere.pth"), SPACE)
    with pytest.raises(UserError, match="64"):
        train(settings(tmp_path, subnet_choice=str(MIDDLE).replace("_r32", "_r64")), SPACE)


def test_images_that_were_moved_are_cropped_as_in_training(tmp_path):
    """The crops decide the batch-norm statistics, and so whether a file agrees with its network."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "here" / part / name).mkdir(parents=True)
            for i in range(16):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
                    tmp_path / "here" / part / name / f"{i}.png")
    config = settings(tmp_path / "run", dataset="", dataset_path=str(tmp_path / "here"), crop_scale_min=0.6)
    target = train(config, SPACE) / "checkpoint.pth"
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for path in ("", tmp_path / "here", tmp_path / "there"):
        evaluator = SubnetEvaluator.open(target, SPACE, quant_mode=False, dataset_path=str(path))
        assert evaluator.data.info.crop_scale == (0.6, 1.0)
