"""The networks of teachers against the published ones and those of torchvision."""
import numpy as np
import pytest
import torch
from teacher_nets import B5, REGNET, TINY, images, lively, models

from modules.block_kd.teacher import (
    build_teacher,
    check_fits,
    fit_teacher,
    get_available_teachers,
    load_teacher,
)
from modules.block_kd.teacher.backbone import quantize_layers
from modules.block_kd.teacher.build import fitting_teacher
from modules.block_kd.teacher.efficientnet import Group, MBConv, same_padding
from modules.modeling.ops.lsq_plus import QBase, to_published
from modules.search_space.superspace import get_available_superspaces, get_superspace
from modules.utils.errors import UserError


@pytest.mark.parametrize(("file", "entries"), [("teacher_b5_fp32", 854), ("teacher_b5_lsq", 1439)])
def test_published_names(shared_json, file, entries):
    with torch.device("meta"):
        teacher = build_teacher(B5)
        if file.endswith("lsq"):
            quantize_layers(teacher)
    found = {key: list(value.shape) for key, value in to_published(teacher.state_dict()).items()}
    assert found == shared_json("facts", "state_dict_keys", f"{file}.keys.json")
    assert len(found) == entries


def test_published_channels_and_counts():
    with torch.device("meta"):
        teacher = build_teacher(B5)
        assert sum(p.numel() for p in teacher.parameters()) == 30_389_784
        assert len(teacher._blocks) == 39
        assert sum(isinstance(m, QBase) for m in quantize_layers(teacher).modules()) == 195
    assert teacher.stages == {f"stage{i}": channels for i, channels in enumerate(
        [(48, 24), (24, 40), (40, 64), (64, 128), (128, 176), (176, 304), (304, 512)])}
    assert teacher.shapes["first_conv"][1][0] == 48
    assert teacher.shapes["feature_mix"][1][0] == 2048


@pytest.mark.parametrize("scale", [f"b{i}" for i in range(8)])
def test_scaling_rules(scale):
    """As many parameters as torchvision's network of the same name."""
    with torch.device("meta"):
        ours, theirs = build_teacher(f"efficientnet-{scale}"), models.get_model(f"efficientnet_{scale}")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("size", [224, 192, 160, 75, 33, 32])
@pytest.mark.parametrize("arch", [TINY, REGNET])
def test_sizes_are_those_of_the_students(arch, size):
    """R/2, R/4, R/8, R/16, R/16, R/32 in, R/4 ... R/32, R/32 out, every division rounded up."""
    stages = [f"stage{i}" for i in range(1, 7)]
    teacher = build_teacher(arch).eval()
    with torch.no_grad():
        found = teacher.features(images(size, 1), stages)
    for stage, before, after in zip(stages, (2, 4, 8, 16, 16, 32), (4, 8, 16, 16, 32, 32), strict=True):
        x, y = found[stage]
        assert x.shape == (1, teacher.stages[stage][0], *[-(-size // before)] * 2)
        assert y.shape == (1, teacher.stages[stage][1], *[-(-size // after)] * 2)


def test_every_teacher_fits_every_superspace():
    for arch in get_available_teachers():
        with torch.device("cpu" if arch == REGNET else "meta"):  # torchvision computes RegNet's widths with tensors
            teacher = build_teacher(arch)
        for space in ("onnxw", "mobilew", "onnxw_tiny"):
            check_fits(teacher, get_superspace(space))


def test_every_superspace_has_a_teacher_that_trains_in_a_minute():
    for name in get_available_superspaces():
        space = get_superspace(name)
        teacher = build_teacher(fitting_teacher(space), 10)
        fit_teacher(teacher, space)
        assert sum(p.numel() for p in teacher.parameters()) < 5e5
    with pytest.raises(UserError, match="that of cifarw from 64 to 32; allowed: efficientnet-small"):
        fit_teacher(build_teacher("efficientnet-tiny", 10), get_superspace("cifarw"))


@pytest.mark.parametrize(("arch", "name"), [("efficientnet-b0", "efficientnet_b0"), (B5, "efficientnet_b5"),
                                            (REGNET, "regnet_y_1_6gf")])
def test_torchvision_weights_give_torchvision_logits(arch, name, tmp_path):
    """With its symmetric padding and batch-norm constants, also for an odd number of pixels."""
    reference = lively(models.get_model(name))
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    teacher = load_teacher(arch, weights=tmp_path / "weights.pth")
    assert teacher.form == "torchvision"
    with torch.no_grad():
        expected = reference(images(75))
        assert expected.std() > 0.01
        torch.testing.assert_close(teacher(images(75)), expected, rtol=1e-5, atol=1e-5)


def test_imagenet_weights_are_torchvisions(tmp_path, monkeypatch):
    """The file that torchvision would download, put where it looks first; without it and without network, an error."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"could not download .*efficientnet_b0.*--teacher_weights"):
        load_teacher("efficientnet-b0", weights="imagenet")
    reference, weights = lively(models.efficientnet_b0()), models.EfficientNet_B0_Weights.DEFAULT
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(reference.state_dict(), file)
    with torch.no_grad():
        torch.testing.assert_close(load_teacher("efficientnet-b0", weights="imagenet")(images(32)),
                                   reference(images(32)), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="torchvision has no weights of teacher 'efficientnet-tiny'"):
        load_teacher(TINY, weights="imagenet")


def test_published_padding():
    """The table of zeros (before, after) that the published teacher has at 224, 192 and 160 pixels."""
    for resolution in (224, 192, 160):
        assert same_padding(resolution, 3, 2) == (0, 1)        # stem
        for reduction, kernel, stride, expected in ((2, 3, 1, (1, 1)), (2, 3, 2, (0, 1)), (4, 5, 1, (2, 2)),
                                                    (4, 5, 2, (1, 2)), (8, 3, 2, (0, 1)), (16, 5, 2, (1, 2))):
            assert same_padding(resolution // reduction, kernel, stride) == expected


def tensorflow_depthwise(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    """Depthwise convolution (C, H, W) by the definition of padding "SAME", a loop over output pixels."""
    channels, height, width = x.shape
    kernel, out = w.shape[-1], np.zeros((channels, -(-height // stride), -(-width // stride)))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            for a in range(kernel):
                for b in range(kernel):
                    row = i * stride + a - max((out.shape[1] - 1) * stride + kernel - height, 0) // 2
                    column = j * stride + b - max((out.shape[2] - 1) * stride + kernel - width, 0) // 2
                    if 0 <= row < height and 0 <= column < width:
                        out[:, i, j] += w[:, 0, a, b] * x[:, row, column]
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 6), (1, 2)])
def test_same_padding(size, kernel, stride):
    block = MBConv(4, Group(3, 1, 1, 4, 1), 4, 1, "tensorflow", {})
    conv = block.conv(4, 4, kernel, stride, groups=4).double()
    x = torch.randn(1, 4, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = tensorflow_depthwise(x[0].numpy(), conv.weight.detach().numpy(), stride)
    np.testing.assert_allclose(conv(block.padded(x, conv))[0].detach().numpy(), expected, atol=1e-12)
