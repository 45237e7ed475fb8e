"""The programs of Zen-NAS under their published names and flags."""
import csv
import itertools
import os
import shlex
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modules.latency import get_platform
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.modeling.network import QNetwork
from modules.modeling.restore import load_supernet
from modules.modeling.zen_weights import to_published
from modules.runtime import torch_timer
from modules.runtime.torch_timer import seconds_per_image
from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zennets import STRUCTURES
from modules.search_space.reference import read_network
from modules.training.config import load_yaml
from modules.utils.checkpoint import load_checkpoint
from modules.utils.cli import make_parser
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.zero_shot.published import validation
from modules.zero_shot.published.flags import (
    add_network_flags,
    add_training_flags,
    choose_gpu,
    given_network,
    training_config,
)
from modules.zero_shot.published.validation import Shrunk
from modules.zero_shot.published.zennet import get_ZenNet

STRUCTURE = ("SuperConvK3BNRELU(3,8,1,1)SuperResIDWE1K3(8,8,2,8,1)SuperResIDWE2K3(8,16,2,8,1)"
             "SuperConvK1BNRELU(16,24,1,1)")
# Of the published script for CIFAR-10 (zen_nas.md, section 4), as it stands there.
RECIPE = shlex.split(
    "--dist_mode single --workers_per_gpu 6 --input_image_size 32 --epochs 1440 --warmup 5 --optimizer sgd "
    "--bn_momentum 0.01 --wd 5e-4 --nesterov --weight_init custom --label_smoothing --random_erase --mixup "
    "--auto_augment --lr_per_256 0.1 --target_lr_per_256 0.0 --lr_mode cosine --batch_size_per_gpu 64")


@pytest.fixture
def zen_nas(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(REPOSITORY / "zen_nas"))
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "best_structure.txt").write_text(STRUCTURE + "\n")
    return tmp_path


def test_the_published_flags_mean_the_published_recipe(zen_nas):
    """The settings of supernet_training_configs/zen_cifar.yaml, which has the recipe from the facts."""
    parser = make_parser("")
    add_network_flags(parser)
    add_training_flags(parser, teacher=True)
    args = parser.parse_args([*RECIPE, "--dataset", "cifar10", "--num_classes", "10", "--arch",
                              "Masternet.py:MasterNet", "--plainnet_struct_txt", str(zen_nas / "best_structure.txt"),
                              "--use_se"])
    network = given_network(args)
    assert str(network.space.superspace) == f"{STRUCTURE}:se"
    found, recipe = asdict(training_config(args, network)), load_yaml(
        REPOSITORY / "supernet_training_configs/zen_cifar.yaml")
    assert found["dataset"] == "CIFAR10"
    assert found["resolutions"] == (32,)
    for name, value in recipe.items():
        if not name.startswith("quant_"):
            assert found[name] == pytest.approx(value), name
    imagenet = parser.parse_args([*RECIPE, "--dataset", "imagenet", "--arch", STRUCTURE])
    assert training_config(imagenet, network).lighting == 0.1
    expected = {"lighting": 0.0, "mixup": 0.2, "random_erasing": 0.5, "label_smoothing": 0.1,
                "augment": "auto_augment", "base_lr": 0.1, "bn_eps": 1e-3, "bn_momentum": 0.01, "epochs": 1440,
                "warmup_epochs": 5, "weight_init": "custom", "weight_decay_weight": 5e-4, "zero_last_gamma": True,
                "schedule": "cosine", "dropout": 0.0}
    assert {name: found[name] for name in expected} == expected


def test_gates_are_added_to_a_structure_in_every_form_and_refused_elsewhere(zen_nas):
    parser, path = make_parser(""), str(zen_nas / "best_structure.txt")
    add_network_flags(parser)
    for text, pixels in ((STRUCTURE, 224), (f"{STRUCTURE}_r32", 32), (f"{STRUCTURE}:se_r32", 32), (path, 224),
                         (f"{path}_r32", 32)):
        network = given_network(parser.parse_args(["--network", text, "--use_se"]))
        assert (network.space.superspace, network.resolution) == (f"{STRUCTURE}:se", pixels)
    for name in ("resnet20", "zennet_cifar10_model_size1M_res32"):
        with pytest.raises(UserError, match=f"--use_se with {name}; allowed: with a structure"):
            given_network(parser.parse_args(["--arch", name, "--use_se"]))


def test_a_structure_is_trained_and_teaches(zen_nas, capsys):
    """From structure file to published weight files; the teacher is the first network, the student one with gates."""
    import train_image_classification
    import ts_train_image_classification

    quick = ["--dataset", "digits", "--input_image_size", "16", "--epochs", "1", "--nesterov", "--workers_per_gpu", "0",
             "--batch_size_per_gpu", "16", "--debug_batches", "2", "--dist_mode", "cpu", "--arch",
             "Masternet.py:MasterNet", "--plainnet_struct_txt", str(zen_nas / "best_structure.txt")]
    train_image_classification.main([*quick, "--save_dir", str(zen_nas / "teacher")])
    teacher = read_network(f"{STRUCTURE}_r16")
    trained = zen_nas / "teacher" / teacher.supernet / "checkpoint.pth"
    published = load_checkpoint(zen_nas / "teacher" / "best-params_rank0.pth")["state_dict"]
    assert published["module_list.3.module_list.0.netblock.weight"].shape == (24, 16, 1, 1)
    model, _ = load_supernet(trained, teacher.space, False)
    again, _ = load_supernet(zen_nas / "teacher" / "best-params_rank0.pth", teacher.space, False)
    structure = Structure.parse(STRUCTURE)
    for name, tensor in published.items():
        assert all(torch.equal(tensor, to_published(net, structure)[name]) for net in (model, again)), name
    ts_train_image_classification.main([
        *quick, "--use_se", "--save_dir", str(zen_nas / "student"), "--teacher_arch", STRUCTURE,
        "--teacher_load_parameters_from", str(trained), "--target_downsample_ratio", "2", "--ts_proj_no_bn"])
    weights = load_checkpoint(zen_nas / "student" / "student_best-params_rank0.pth")["state_dict"]
    assert "module_list.1.module_list.0.module_list.6.netblock.1.weight" in weights
    with pytest.raises(UserError, match="without weights"):
        ts_train_image_classification.main([*quick, "--teacher_arch", STRUCTURE])
    assert "top-1" in capsys.readouterr().out


def test_published_weights_are_validated_on_crops(zen_nas, capsys):
    import val_cifar

    name, rng = "zennet_cifar10_model_size05M_res32", np.random.default_rng(0)
    torch.manual_seed(0)
    net = get_ZenNet(name).eval()
    torch.save({"state_dict": to_published(net, STRUCTURES[name])}, zen_nas / "w.pth")
    pixels = rng.integers(0, 256, (10, 32, 32, 3), np.uint8)
    for number, image in enumerate(pixels):
        for part in ("train", "val"):
            path = zen_nas / "images" / part / f"c{number}" / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(image).save(path)
    val_cifar.main(["--arch", name, "--weights", str(zen_nas / "w.pth"), "--dataset", "folder", "--data",
                    str(zen_nas / "images"), "--workers", "0"])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = torch.from_numpy((pixels / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        right = (net(images).argmax(1) == torch.arange(10)).float().mean().item()
    assert capsys.readouterr().out.splitlines()[-1].startswith(
        f"*** arch={name}, validation top-1 acc={100 * right:.4g}%, ")


def test_layers_add_up_to_the_network(zen_nas, capsys):
    import analyze_model

    analyze_model.main(["--network", f"{STRUCTURE}:se_r32", "--num_classes", "10", "--platform", "onnx_lut", "--output",
                        str(zen_nas / "layers.csv")])
    with open(zen_nas / "layers.csv") as file:
        rows = list(csv.DictReader(file))
    network = read_network(f"{STRUCTURE}:se_r32")
    spec = resolve(network.space, network.subnet, 10)
    macs, _ = count_net_flops_and_params(spec)
    assert sum(int(row["macs"]) for row in rows) == round(macs * 1e6)
    weights = (p.numel() for name, p in QNetwork(spec).named_parameters() if name.endswith((".weight", ".bias")))
    assert sum(int(row["parameters"]) for row in rows) == sum(weights)
    ms = sum(float(row["block_ms"] or 0) for row in rows)
    assert ms == pytest.approx(get_platform("onnx_lut").predict_subnet(spec), abs=0.001)
    assert f"Flops:  {round(macs * 1e6):4g}" in capsys.readouterr().out


def test_latency_under_torch_is_that_of_an_image(zen_nas, capsys, monkeypatch):
    import benchmark_network_latency

    with monkeypatch.context() as patched:  # runs take 0.5, 2.5, 4.5 ... seconds, the last three 6.5 to 10.5
        clock = itertools.count()
        patched.setattr(torch_timer, "now", lambda device: next(clock)**2 / 2 + 0.5)
        assert seconds_per_image(torch.nn.Conv2d(3, 1, 1), (4, 3, 8, 8), 3) == pytest.approx(8.5 / 4)
    benchmark_network_latency.main(["--network", "resnet8:0.25_r16", "--batch_size_list", "1,2", "--repeat_times", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["batch 1", "batch 2"]
    for line in lines:
        seconds, rate = float(line.split()[2]), float(line.split()[-4])
        assert seconds * rate == pytest.approx(1, rel=1e-3)
    for bad, words in (("1,x", "numbers such as"), ("0", "numbers such as")):
        with pytest.raises(UserError, match=words):
            benchmark_network_latency.main(["--network", "resnet8:0.25_r16", "--batch_size_list", bad])
    with pytest.raises(UserError, match="2 of --network, --arch"):
        benchmark_network_latency.main(["--network", "resnet8", "--arch", "resnet20"])
    for ignored in (["--fp16"], ["--gpu", "0"], ["--batch_size", "64"], ["--batch_size_list", "1,2"]):
        with pytest.raises(UserError, match="with --platform, which times int8 in its own way"):
            benchmark_network_latency.main(["--network", "resnet8", "--platform", "onnxruntime_int8", *ignored])


def test_images_shrink_by_linear_weights_between_the_centres_of_pixels():
    """From 320 to 224: pixel i lies at (i + 1/2) 10/7 - 1/2, and takes its two neighbours."""
    images = np.random.default_rng(0).normal(size=(2, 3, 320, 320))
    at = (np.arange(224) + 0.5) * 10 / 7 - 0.5
    left, weights = np.floor(at).astype(int), np.zeros((224, 320))
    weights[np.arange(224), left] += 1 - (at - left)
    weights[np.arange(224), left + 1] += at - left
    shrunk = Shrunk(torch.nn.Identity(), 224)
    np.testing.assert_allclose(shrunk(torch.from_numpy(images)), weights @ images @ weights.T, atol=1e-5)
    small = torch.from_numpy(images[..., :224, :224])
    assert torch.equal(shrunk(small), small)


def test_imagenet_weights_are_validated_on_shrunk_crops(zen_nas, capsys, monkeypatch):
    """A network that tells bright images from dark ones, one of four images being in the wrong folder."""
    class Bright(torch.nn.Module):
        spec, seen = SimpleNamespace(num_classes=1000), []

        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(10.0 * (torch.arange(1000) < 2))

        def forward(self, images):
            self.seen.append(tuple(images.shape))
            mean = images.mean((1, 2, 3))
            return self.bias + torch.nn.functional.pad(torch.stack([-mean, mean], 1), (0, 998))

    import val

    monkeypatch.setattr(validation, "get_ZenNet", lambda name, weights: Bright())
    for number, (folder, value) in enumerate((("a", 20), ("a", 230), ("b", 220), ("b", 240))):
        for part in ("train", "val"):
            path = zen_nas / "images" / part / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (400, 380), (value,) * 3).save(path)
    val.main(["--data", str(zen_nas / "images"), "--workers", "0"])
    assert Bright.seen == [(4, 3, 224, 224)]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "*** arch=zennet_imagenet1k_flops400M_SE_res224, validation top-1 acc=75%, top-5 acc=100%, number of evaluated "
        "images=4")


@pytest.mark.parametrize(("allotted", "gpu", "visible"), [("", 1, "1"), ("2,3", 1, "3"), ("GPU-a, GPU-b", 0, "GPU-a")])
def test_a_gpu_is_one_of_those_allotted(monkeypatch, allotted, gpu, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allotted)
    assert choose_gpu(SimpleNamespace(gpu=gpu)) == "cpu"  # none is here
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_a_gpu_that_is_not_allotted_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(UserError, match="--gpu 2: CUDA_VISIBLE_DEVICES is 2,3; allowed: 0 to 1"):
        choose_gpu(SimpleNamespace(gpu=2))
