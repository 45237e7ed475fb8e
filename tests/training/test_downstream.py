"""Fine-tuning on another data set: its start, the parts that learn, and later tools on its result."""
import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_script

from modules.datasets.build import load_data
from modules.datasets.transforms import train_transform
from modules.deploy.graph.lower import lower
from modules.modeling.restore import ModelRecord, load_supernet
from modules.modeling.supernet import HEAD, Supernet
from modules.search_space.config import SupernetConfig
from modules.search_space.published import find_subnet
from modules.training.calibration import calibrate_start, load_calibration_images
from modules.training.config import TrainConfig
from modules.training.downstream import downstream_config, fine_tune
from modules.training.schedule import warmup_linear_lr
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.training.trainer import train
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError

SPACE = SupernetConfig.from_str("onnxw_tiny-053412-000000")
CHOICE = Supernet(SPACE, 10, (32,)).subnets.extreme(min)
QUICK = {"augment": "default", "data_loader_workers_per_gpu": 0, "debug_batches": 2, "valid_batches": 1,
         "batch_size_per_gpu": 16, "post_bn_calibration_batch_num": 2, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def supernets(tmp_path_factory):
    """Folder of a supernet for twelve classes, fp32 and int8."""
    folder = tmp_path_factory.mktemp("supernets")
    config = TrainConfig(dataset="digits", resolutions=(32,), n_classes=12, epochs=1, quant_epochs=1,
                         placement="engine", models_save_dir=str(folder), quant_warmup_epochs=0, **QUICK)
    train(config, SPACE)
    train(config.for_quantization(), SPACE, quant_mode=True)
    return folder


def tune(supernets, output, **changes):
    name, supernet, space, choice = find_subnet(str(CHOICE), "onnxw_tiny", "053412-000000")
    settings = {"dataset": "digits", "checkpoint": str(supernets), "output": str(output), "epochs": 1,
                "grad_clip_norm": 1.0, **QUICK, **changes}
    return fine_tune(name, supernet, space, choice, **settings)


def test_schedule_is_two_straight_lines():
    for iteration in range(100):
        rate = warmup_linear_lr(iteration, base_lr=0.3, iterations=100, warmup_iterations=20)
        assert rate == pytest.approx(np.interp(iteration, [0, 20, 100], [0, 0.3, 0]))
    assert warmup_linear_lr(0, base_lr=0.3, iterations=100, warmup_iterations=0) == 0.3


def test_published_recipe(supernets):
    start = supernets / f"{SPACE}-align0" / "lsq.pth"
    config = downstream_config(start, CHOICE, dataset="OxfordIIITPet", int8=True, batch_size_per_gpu=128)
    assert config.base_lr * config.batch_size_per_gpu / 256 == pytest.approx(0.00375)
    assert (config.schedule, config.nesterov, config.dropout, config.placement) == ("linear", True, 0, "engine")
    assert downstream_config(start, CHOICE, dataset="digits", int8=True, learning_rate=0.1).base_lr == 0.2


@pytest.mark.parametrize("int8", [True, False])
def test_the_body_starts_from_the_supernet_and_the_head_afresh(supernets, tmp_path, int8):
    path, accuracy = tune(supernets, tmp_path, int8=int8, learning_rate=1e-9)
    before = load_checkpoint(supernets / f"{SPACE}-align0" / ("lsq.pth" if int8 else "checkpoint.pth"))["state_dict"]
    after = load_checkpoint(path)["state_dict"]
    assert path.name.endswith("_digits.pth" if int8 else "_digits_fp32.pth")  # neither replaces the other
    with pytest.raises(UserError, match="or give another --output_dir"):
        tune(supernets, tmp_path, int8=int8)
    assert 0 <= accuracy <= 100
    assert set(before) == set(after)
    for key, tensor in after.items():
        if key == f"{HEAD}linear.weight":
            assert len(tensor) == 10
        elif key.endswith(("running_mean", "running_var", "num_batches_tracked", "initialized")):
            continue  # they take in the new images; a quantiser may start now
        elif not key.startswith(HEAD) and "activation" not in key:
            torch.testing.assert_close(tensor, before[key], atol=1e-6, rtol=1e-5, msg=key)
    if int8:
        assert after[f"{HEAD}linear.initialized"].tolist() == [True, False]  # its input belongs to another block


def test_the_head_alone_learns(supernets, tmp_path):
    path, _ = tune(supernets, tmp_path, only_train_head=True, learning_rate=0.5, epochs=2)
    before, after = (load_checkpoint(p)["state_dict"] for p in (supernets / f"{SPACE}-align0" / "lsq.pth", path))
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key]) and "running" not in key}
    assert f"{HEAD}linear.weight" in moved
    assert not [key for key in moved if not key.startswith(HEAD) and "num_batches" not in key]


def test_later_tools_take_the_file(supernets, tmp_path):
    path, accuracy = tune(supernets, tmp_path, valid_batches=0)
    evaluator = SubnetEvaluator.open(path, SPACE, quant_mode=True, calibration_batches=2, batch_size=16, seed=0)
    assert evaluator.record.only_subnet == CHOICE
    assert evaluator.accuracy(CHOICE).top1 == pytest.approx(accuracy, abs=1e-4)
    assert lower(evaluator.subnet(CHOICE), evaluator.calibration).quantizers
    assert tune(supernets, tmp_path, valid_batches=0, resume=True) == (path, accuracy)  # nothing is left to do
    with pytest.raises(UserError, match="--resume"):
        tune(supernets, tmp_path)


@pytest.fixture
def photos(tmp_path):
    """A folder of 24 images in two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "photos" / ("val" if i < 4 else "train") / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_the_start_is_calibrated_on_other_images(supernets, tmp_path, photos):
    """--imagenet_path: the first norm holds mean and variance of the first convolution's results on those images."""
    start = load_supernet(supernets / f"{SPACE}-align0" / "checkpoint.pth", SPACE, False)[0]
    supernet, record = copy.deepcopy(start), ModelRecord(str(SPACE), (32,), tuple("ab"), "folder")
    config = TrainConfig(augment="default", data_loader_workers_per_gpu=0)
    supernet.set_min_subnet()
    calibrate_start(supernet, record, dataclasses.replace(config, calibration_path=str(photos)))
    data = load_data("folder", str(photos))
    transform = train_transform("default", record.crop_size, data.info)
    (images,) = load_calibration_images(data, transform, 32, batch_size=64,
                                        seed=config.seed)
    assert len(images) == 20
    block = supernet.stages["first_conv"].blocks[0].conv
    channels = CHOICE.stages[0][0].width
    with torch.no_grad():
        results = torch.nn.functional.conv2d(images, block.conv.weight[:channels], stride=2, padding=1)
    torch.testing.assert_close(block.norm.running_mean[:channels], results.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(block.norm.running_var[:channels], results.var((0, 2, 3)), atol=1e-5, rtol=1e-3)
    for key, value in start.head.state_dict().items():
        assert torch.equal(value, supernet.head.state_dict()[key]), key


def test_a_run_may_be_calibrated_on_other_images_first(supernets, tmp_path, photos):
    path, _ = tune(supernets, tmp_path / "with", calibration_path=str(photos))
    assert load_checkpoint(path)["config"]["training"]["calibration_path"] == str(photos)
    with pytest.raises(UserError, match="xxx"):
        tune(supernets, tmp_path / "without", calibration_path="xxx")


def test_what_cannot_be_is_refused(supernets, tmp_path):
    with pytest.raises(UserError, match="is an fp32 one"):
        tune(supernets, tmp_path, checkpoint=supernets / f"{SPACE}-align0" / "checkpoint.pth")
    with pytest.raises(UserError, match=r"nowhere.*lsq\.pth.* does not exist"):
        tune(supernets, tmp_path, checkpoint="nowhere")
    with pytest.raises(UserError, match="spaceevo@vnni is a supernet; allowed: SEQnet@pixel4-A0"):
        find_subnet("SpaceEvo@vnni")
    with pytest.raises(UserError, match="superspace"):
        find_subnet(str(CHOICE), "", "053412-000000")
    with pytest.raises(UserError):
        find_subnet(str(CHOICE).replace("w8", "w9", 1), "onnxw_tiny", "053412-000000")
    assert find_subnet("seqnet@VNNI-A3")[:2] == ("SEQnet@vnni-A3", "spaceevo@vnni")


def test_the_script_and_its_errors(supernets, tmp_path):
    def run(*options):
        return run_script("downstream_cls.py", *options, env={"CUDA_VISIBLE_DEVICES": ""})

    result = run("--superspace", "onnxw_tiny", "--supernet_choice", "053412-000000", "--subnet_name", CHOICE,
                 "--checkpoint_path", supernets, "--dataset", "digits", "--augment", "default", "--num_workers", 0,
                 "--epochs", 1, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "on digits: acc1=" in result.stdout.splitlines()[-1]
    assert len(list(tmp_path.glob("*_digits.pth"))) == 1
    for options, what in ((("--dataset", "CIFAR11"), "allowed: digits"), (("--device", "cuda"), "allowed here: cpu"),
                          (("--subnet_name", "SEQnet"), "unknown network")):
        result = run("--checkpoint_path", tmp_path.glob("*_digits.pth").__next__(), *options)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1
        assert what in result.stderr


def test_weights_keep_the_epsilon_of_their_training(supernets, tmp_path, capsys):
    """A supernet trained with another one than the default of the recipe; a stopped run goes on with it."""
    kept = load_checkpoint(supernets / f"{SPACE}-align0" / "checkpoint.pth")
    kept["config"]["training"]["bn_eps"] = 0.001
    folder = tmp_path / f"{SPACE}-align0"
    folder.mkdir()
    save_checkpoint(folder / "checkpoint.pth", kept)
    path, _ = tune(tmp_path, tmp_path, int8=False)
    tune(tmp_path, tmp_path, int8=False, resume=True)
    model, record = load_supernet(path, SPACE, False)
    assert record.bn_eps == 0.001
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.001}
    assert "bn_eps 1e-05 is 0.001 here, that of the training of the weights" in capsys.readouterr().err


def test_weights_of_another_subnet_do_not_go_unnoticed(supernets, tmp_path, capsys):
    largest = Supernet(SPACE, 10, (32,)).subnets.extreme(max)
    alone = load_checkpoint(supernets / f"{SPACE}-align0" / "checkpoint.pth")
    alone["config"]["training"]["subnet_choice"] = str(largest)
    folder = tmp_path / f"{SPACE}-align0"
    folder.mkdir()
    save_checkpoint(folder / "checkpoint.pth", alone)
    tune(tmp_path, tmp_path, int8=False)
    assert f"has trained weights of {largest} alone; other layers and widths start at random" in capsys.readouterr().err
    config = TrainConfig(dataset="digits", teacher=(f"{SPACE}-{CHOICE}",), teacher_checkpoint=str(tmp_path), epochs=1,
                         subnet_choice=str(CHOICE), n_classes=12, models_save_dir=str(tmp_path / "taught"),
                         teacher_strides=(), **QUICK)
    with pytest.raises(UserError, match=f"subnet {CHOICE} of .*checkpoint.pth': only {largest} was trained there"):
        train(config, SPACE)
