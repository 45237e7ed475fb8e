"""Labels follow class names: onto a model's classes, against an earlier run's, and in the first line of a run."""

import subprocess
import sys

import numpy as np
import pytest
from image_trees import one_line

from modules.datasets.announce import announce, describe
from modules.datasets.build import Data, DataInfo, load_data
from modules.datasets.classes import check_enough_classes, check_same_classes, follow_classes, listed
from modules.datasets.held import HeldDecoded
from modules.datasets.sources import ArraySource
from modules.search_space.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from modules.training.config import load_yaml
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY


def data_of(classes, labels=None):
    labels = np.arange(len(classes)) if labels is None else np.asarray(labels)
    pixels = np.repeat(labels.astype(np.uint8)[:, None, None, None], 3, axis=3)
    train, test = (ArraySource(pixels, classes, labels) for _ in range(2))
    info = DataInfo("folder", tuple(classes), IMAGENET_MEAN, IMAGENET_STD, hflip=True, crop_scale=(0.08, 1.0), path="d")
    indices = np.arange(len(labels))
    return Data(info, train, indices, train, indices[:1], test, indices)


def names_of(data):
    return [[source.classes[label] for label in source.labels] for source in (data.train, data.valid, data.test)]


@pytest.mark.parametrize(("known", "said"), [
    ("abc", ""), ("cab", "another order"), ("xaybzc", "3 of the 6 classes"), (["c", "b", "a", "q"], "another order"),
    (["a", "b", "c", "unused0", "unused1"], "")])
def test_labels_number_the_models_classes(known, said, capsys):
    before = data_of("abc", [0, 1, 2, 2, 1])
    after = follow_classes(before, tuple(known), "checkpoint 'x'")
    assert names_of(after) == names_of(before)
    assert after.info.classes == after.train.classes == after.test.classes == tuple(known)
    assert after.train is after.valid
    assert [after.train.image(i).getpixel((0, 0))[0] for i in range(5)] == [0, 1, 2, 2, 1]
    assert before.train.labels.tolist() == [0, 1, 2, 2, 1]
    told = capsys.readouterr().err
    assert (said in told and "checkpoint 'x'" in told) if said else told == ""


def test_unknown_classes_are_refused_by_name():
    with pytest.raises(UserError) as error:
        follow_classes(data_of("abq"), tuple("abc"), "checkpoint 'x'")
    one_line(error, "checkpoint 'x'", "know: q;", "a, b, c")


def test_classes_without_names_are_taken_in_their_order_with_a_warning(capsys):
    made_up = tuple(map(str, range(1000)))
    after = follow_classes(data_of(["9", "7"]), made_up, "checkpoint 'p'", named=False)
    assert after.test.labels.tolist() == [0, 1]
    said = capsys.readouterr().err
    assert all(part in said for part in ("warning", "no names", "checkpoint 'p'", "hardly its classes"))
    with pytest.raises(UserError) as error:
        follow_classes(data_of("abc"), ("0", "1"), "checkpoint 'p'", named=False)
    one_line(error, "3 classes", "2 outputs")


def test_held_images_stay_held():
    data = load_data("digits")
    held = HeldDecoded(data.test)
    mapped = follow_classes(Data(data.info, held, data.train_indices, held, data.valid_indices, held,
                                 data.test_indices), tuple("9876543210"), "m")
    held.image(3)
    mapped.test.source = None  # so that only a held image can be shown
    assert np.array_equal(np.asarray(mapped.test.image(3)), data.test.pixels[3])


@pytest.mark.parametrize(("now", "told"), [
    ("zbc", "without a and with z"), ("ab", "without c"), ("abcd", "with d"), ("bac", "another order")])
def test_a_run_keeps_its_classes(now, told):
    check_same_classes(["a", "b", "c"], ("a", "b", "c"), "run.pth")
    with pytest.raises(UserError) as error:
        check_same_classes(["a", "b", "c"], tuple(now), "run.pth")
    one_line(error, "run.pth", told, "a, b, c")


def test_one_class_is_nothing_to_learn():
    check_enough_classes(data_of("ab").info)
    with pytest.raises(UserError) as error:
        check_enough_classes(data_of("a").info)
    one_line(error, "folder 'd'", "a;")


def test_long_lists_are_cut():
    assert listed("abc") == "a, b, c"
    assert listed(list(map(str, range(1000)))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (1000)"


def test_the_first_line_names_what_is_read(capsys):
    log = []
    announce(data_of("abc"), [48, 32], log.append)
    line = capsys.readouterr().out.strip()
    assert line == log[0] == ("data set folder 'd': 3 classes (a, b, c), 3 training images, 1 for validation held out "
                              "of training, 3 for testing, at 32, 48 pixels")
    assert describe(load_data("digits"), (64,)) == ("data set digits: 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), 1442 "
                                                    "training images, 355 for validation, at 64 pixels")


def test_only_the_digits_recipe_has_the_digits():
    recipes = {path.stem: load_yaml(path) for path in (REPOSITORY / "supernet_training_configs").glob("*.yaml")}
    assert len(recipes) >= 4
    assert {name for name, recipe in recipes.items() if recipe.get("dataset")} == {"digits"}


def test_names_that_the_terminal_lacks_are_printed(tmp_path):
    """In the script's own process: the terminal's encoding is fixed at its start."""
    code = ("from modules.utils.cli import run\n"
            "run(lambda: print('caf\\u00e9', '\\udce9'))\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60,
                          env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9 \\udce9\n", "")
