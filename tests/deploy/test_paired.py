"""McNemar's test against sums of binomial coefficients, and in the scripts."""
import re
import subprocess
import sys
from math import comb

import numpy as np
import pytest

from modules.deploy.check.accuracy import session_accuracy
from modules.deploy.check.paired import mcnemar
from modules.deploy.graph.untrained import untrained_graph
from modules.deploy.to_onnx.writer import write_onnx
from modules.runtime.engines import open_model
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.files import REPOSITORY


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
    done = subprocess.run([sys.executable, "onnx_tools/eval_onnx.py", "--model_path", tmp_path / "small.onnx",
                           tmp_path / "large.onnx"], cwd=REPOSITORY, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = re.search(r"first: (\d+) images right here only, (\d+) there", done.stdout).groups()
    only_large, only_small = map(int, counts)
    assert only_large == (right[1] & ~right[0]).sum()
    assert only_small == (right[0] & ~right[1]).sum()
    assert only_large + only_small > 0
