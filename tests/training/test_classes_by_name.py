"""Labels follow class names from the checkpoint to the model file, and a run that goes on keeps its classes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from modules.block_kd.teacher import TeacherRecord, build_teacher
from modules.block_kd.teacher.config import TeacherConfig
from modules.block_kd.teacher.training import TeacherTrainer, evaluate_teacher
from modules.deploy.check.accuracy import session_accuracy
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.to_onnx.writer import write_onnx
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.runtime.engines import open_model
from modules.search_space.config import SupernetConfig
from modules.training.config import TrainConfig, load_yaml
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.training.trainer import SupernetTrainer
from modules.utils.checkpoint import save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

SPACE = SupernetConfig.from_str("onnxw_tiny-000000-000000")
COLOURS = {"a": (250, 20, 20), "b": (20, 250, 20), "c": (20, 20, 250), "z": (90, 90, 90)}


def write_set(root, classes, count=6):
    for part in ("train", "val"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = COLOURS[name] + np.random.default_rng(i).integers(-20, 20, (36, 36, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / part / name / f"{i}.png")
    return str(root)


def write_supernet(path, classes, dataset="folder"):
    torch.manual_seed(0)
    record = ModelRecord(str(SPACE), (32,), tuple(classes), dataset)
    save_checkpoint(path, {"state_dict": Supernet(SPACE, len(classes), (32,)).state_dict(), "config": record.to_dict()})
    return path


def evaluator(path, images):
    return SubnetEvaluator.open(path, SPACE, quant_mode=False, dataset_path=images, batch_size=4, calibration_batches=1,
                                augment="default")


@pytest.mark.parametrize(("known", "said"), [("cxa", "another order"), ("abcx", "2 of the 4 classes"), ("ac", "")])
def test_accuracy_follows_the_checkpoints_class_names(tmp_path, capsys, known, said):
    images = write_set(tmp_path / "images", "ac")
    checkpoint = write_supernet(tmp_path / "net.pth", known)
    ours = evaluator(checkpoint, images)
    choice = ours.model.subnets.extreme(min)
    net, right, rows = ours.subnet(choice), 0, 0
    batches = [images for images, _ in ours.validation_batches()]
    for index in ours.data.valid_indices:  # by the names of the folders, not by any label
        image, name = ours.data.valid.image(index), ("a" if index < 6 else "c")
        batch = batches[index // 4][index % 4]
        assert np.abs(np.array(image).mean((0, 1)) - COLOURS[name]).max() < 25
        with torch.no_grad():
            right += known[int(net(batch[None]).argmax())] == name
        rows += 1
    assert rows == 12
    assert ours.accuracy(choice).top1 == pytest.approx(100 * right / 12)
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out.splitlines()[0] == (f"data set folder {images!r}: 2 classes (a, c), 12 training images, 12 for "
                                           "validation, at 32 pixels")


def test_classes_the_checkpoint_does_not_know_are_refused(tmp_path):
    checkpoint = write_supernet(tmp_path / "net.pth", "abc")
    with pytest.raises(UserError, match=r"net.pth' does not know: z; allowed: a, b, c"):
        evaluator(checkpoint, write_set(tmp_path / "images", "az"))


def test_a_published_checkpoint_has_no_names_and_warns(tmp_path, capsys):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "published.pth", {"state_dict": Supernet(SPACE, 1000, (32,)).state_dict()})
    images = write_set(tmp_path / "images", "ac")
    assert evaluator(tmp_path / "published.pth", images).data.test.labels.tolist() == [0] * 6 + [1] * 6
    assert "warning: the classes of checkpoint" in capsys.readouterr().err
    with pytest.raises(UserError, match="no data set is given"):
        evaluator(tmp_path / "published.pth", "")


@pytest.mark.parametrize(("metadata", "mapped", "said"), [
    ({"classes": ["c", "q", "a"], "dataset": "folder"}, {"a": 2, "c": 0}, "another order"),
    ({"classes": ["0", "1", "2"], "dataset": ""}, {"a": 0, "c": 1}, "no names"),
])
def test_a_model_files_accuracy_follows_its_class_names(tmp_path, capsys, metadata, mapped, said):
    images, choice = write_set(tmp_path / "images", "ac"), Supernet(SPACE, 3, (32,)).subnets.extreme(min)
    write_onnx(untrained_graph(SPACE, choice, False, 3), tmp_path / "net.onnx", {})
    session = open_model(tmp_path / "net.onnx")
    found, _ = session_accuracy(session, {key: json.dumps(value) if key == "classes" else value
                                          for key, value in metadata.items()}, dataset_path=images, batch_size=4)
    right = 0
    for name, label in mapped.items():
        for i in range(6):
            pixels = np.asarray(Image.open(tmp_path / "images" / "val" / name / f"{i}.png").resize((37, 37), 3))
            pixels = pixels[2:34, 2:34].transpose(2, 0, 1)[None]
            norm = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
            image = ((pixels / 255 - norm[0][:, None, None]) / norm[1][:, None, None]).astype(np.float32)
            right += int(session.run(None, {"input": image})[0].argmax()) == label
    assert found.top1 == pytest.approx(100 * right / 12)
    assert said in capsys.readouterr().err


def test_a_model_file_with_other_outputs_than_classes_is_refused(tmp_path):
    images, choice = write_set(tmp_path / "images", "ac"), Supernet(SPACE, 3, (32,)).subnets.extreme(min)
    write_onnx(untrained_graph(SPACE, choice, False, 3), tmp_path / "net.onnx", {})
    with pytest.raises(UserError, match="3 outputs for 2 classes"):
        session_accuracy(open_model(tmp_path / "net.onnx"), {"classes": '["a", "c"]', "dataset": "folder"},
                         dataset_path=images)


# ---- training ----

def settings(root, **changes):
    return TrainConfig(**{"dataset_path": str(root / "images"), "models_save_dir": str(root), "resolutions": (32,),
                          "augment": "default", "data_loader_workers_per_gpu": 0, "batch_size_per_gpu": 4, **changes})


def test_a_run_that_goes_on_refuses_renamed_classes(tmp_path):
    write_set(tmp_path / "images", "abc")
    trainer = SupernetTrainer(settings(tmp_path), SPACE)
    with trainer.files:
        trainer.start()
    assert "3 classes (a, b, c)" in (trainer.folder / "stdout.log").read_text()
    for part in ("train", "val"):
        (tmp_path / "images" / part / "a").rename(tmp_path / "images" / part / "z")
    other = settings(tmp_path, models_save_dir=str(tmp_path / "other"),
                     init_checkpoint=str(trainer.folder / "checkpoint.pth"))
    for config, mode in ((settings(tmp_path), {"resume": True}), (settings(tmp_path), {"quant_mode": True}),
                         (other, {})):
        with pytest.raises(UserError, match=r"checkpoint.pth': now without a and with z; allowed: a, b, c"):
            SupernetTrainer(config, SPACE, **mode).run()
    fresh = dataclasses.replace(other, new_head=True)  # a classifier of its own learns the new classes
    trainer = SupernetTrainer(fresh, SPACE)
    with trainer.files:
        trainer.start()
    assert trainer.record.classes == ("b", "c", "z")


def test_one_class_is_refused_at_the_start(tmp_path):
    write_set(tmp_path / "images", "a")
    with pytest.raises(UserError, match="has one class, a; allowed: 2 or more"):
        SupernetTrainer(settings(tmp_path), SPACE).run()


def test_the_imagenet_recipe_does_not_train_on_digits(tmp_path):
    recipe = load_yaml(REPOSITORY / "supernet_training_configs" / "train.yaml")
    with pytest.raises(UserError, match="no data set is given; add --dataset_path"):
        SupernetTrainer(TrainConfig(**recipe | {"models_save_dir": str(tmp_path)}), SPACE).run()


def test_a_teacher_keeps_its_classes(tmp_path, capsys):
    images = write_set(tmp_path / "images", "az")
    teacher = build_teacher("efficientnet-tiny", 3)
    record = TeacherRecord("efficientnet-tiny", ("z", "b", "a"), teacher.form, "folder", (32,))
    save_checkpoint(tmp_path / "checkpoint.pth", {"model": teacher.state_dict(), "config": record.to_dict()})
    config = TeacherConfig(dataset_path=images, output_path=str(tmp_path), num_workers=0, dataset="folder")
    with torch.no_grad():
        assert evaluate_teacher(config)[32].images == 12
    assert "2 of the 3 classes of teacher efficientnet-tiny" in capsys.readouterr().err
    record = TeacherRecord("efficientnet-tiny", ("a", "b"), teacher.form, "folder", (32,))
    save_checkpoint(tmp_path / "checkpoint.pth", {"model": build_teacher("efficientnet-tiny", 2).state_dict(),
                                                  "config": record.to_dict()})
    with pytest.raises(UserError, match="now without b and with z; allowed: a, b"):
        TeacherTrainer(config, quant_mode=True).run()
