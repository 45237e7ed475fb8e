"""McNemar's test against sums of binomial coefficients, and in the scripts."""
import re
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from processes import run_script

from modules.deploy.arguments import evaluate_given
from modules.deploy.check.accuracy import session_accuracy
from modules.deploy.check.paired import mcnemar
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.to_onnx.writer import write_onnx
from modules.runtime.engines import open_model
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (0, 1), (12, 3), (40, 61), (7, 7)])
def test_the_probability_is_that_of_throws_of_a_coin(only_first, only_second):
    rng, thrown = np.random.default_rng(0), only_first + only_second
    pairs = np.array([(1, 0)] * only_first + [(0, 1)] * only_second + [(1, 1)] * 30 + [(0, 0)] * 10, bool)
    first, second = rng.permutation(pairs).T
    as_uneven = [k for k in range(thrown + 1) if abs(2 * k - thrown) >= abs(only_first - only_second)]
    paired = mcnemar(first, second)
    assert (paired.only_first, paired.only_second) == (only_first, only_second)
    assert paired.p == pytest.approx(sum(comb(thrown, k) for k in as_uneven) / 2**thrown)
    assert mcnemar(second, first).p == pytest.approx(paired.p)


def test_the_script_compares_further_files_with_the_first(tmp_path):
    space = SupernetConfig.from_choice("onnxw_tiny", "053412")
    right = []
    for name, end in (("small", min), ("large", max)):
        path = tmp_path / f"{name}.onnx"
        graph = untrained_graph(space, SubnetSpace(space, (32,)).extreme(end), False, 10)
        write_onnx(graph, path, {"dataset": "digits"})
        session = open_model(path)
        right.append(session_accuracy(session, session.metadata)[1])
    done = run_script("onnx_tools/eval_onnx.py", "--model_path", tmp_path / "small.onnx", tmp_path / "large.onnx")
    assert done.returncode == 0, done.stderr
    counts = re.search(r"first: (\d+) images right here only, (\d+) there", done.stdout).groups()
    only_large, only_small = map(int, counts)
    assert only_large == (right[1] & ~right[0]).sum()
    assert only_small == (right[0] & ~right[1]).sum()
    assert only_large + only_small > 0


def test_models_are_compared_on_the_same_images_only(tmp_path, monkeypatch, capsys):
    space = SupernetConfig.from_choice("onnxw_tiny", "053412")
    graph = untrained_graph(space, SubnetSpace(space, (32,)).extreme(min), False, 10)
    paths = [str(tmp_path / f"{name}.onnx") for name in ("first", "second", "third")]
    for path in paths:
        write_onnx(graph, path, {"dataset": "digits"})
    counts = iter([8, 8, 9])

    def judged(*_):
        right = np.ones(next(counts), bool)
        return SimpleNamespace(images=len(right)), right

    monkeypatch.setattr("modules.deploy.check.accuracy.session_accuracy", judged)
    with pytest.raises(UserError, match=r"third\.onnx' is evaluated on 9 images, '.*first\.onnx' on 8; give both the"):
        evaluate_given(SimpleNamespace(model_path=paths, threads=1, dataset="", dataset_path="", batch_size=4))
    assert capsys.readouterr().out.count("against the first") == 1
