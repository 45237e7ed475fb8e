"""Damaged inputs: every reader reads them or raises UserError in one line, soon and within bounds; never anything else.

    python -m pytest tests/fuzz                         a few thousand cases
    FUZZ_CASES=100000 python -m pytest -m slow tests/fuzz -s    all failures counted by kind; other seeds by FUZZ_SEED
"""
import collections
import contextlib
import json
import os
import resource
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mutations import changed_tree, damaged, edits, noise, resealed, tree_edits
from readers import INSIDE, READERS, TREES

from modules.utils.errors import UserError

FAST, SLOW = 2500, int(os.environ.get("FUZZ_CASES", 100_000))
SECONDS, MEGABYTES = 5, 700  # of the processor, and by which one case may raise the peak of memory
START = int(os.environ.get("FUZZ_SEED", 0))

_VALID = {}


def valid(name):
    """The valid contents, made once."""
    if name not in _VALID:
        _VALID[name] = READERS[name][0]()
    return _VALID[name]


def cases(name):
    """Damaged contents for the reader `name`."""
    content = valid(name)
    kinds = [edits.map(lambda changes: damaged(content, changes))] * 3
    kinds.append(st.tuples(st.integers(0, 2**32), st.integers(0, 300)).map(lambda drawn: noise(*drawn)))
    if name in INSIDE:
        kinds += [edits.map(lambda changes: resealed(content, INSIDE[name], changes))] * 3
    if name in TREES:
        kinds += [tree_edits.map(lambda change: json.dumps(changed_tree(TREES[name], change)).encode())] * 3
    return st.one_of(kinds)


def attempt(name, content, path):
    """Read `content`; True if it was taken, False if it was refused as it should be."""
    path.write_bytes(content)
    with contextlib.suppress(OSError):  # Linux: the peak so far is forgotten; elsewhere only what exceeds it is seen
        Path("/proc/self/clear_refs").write_text("5")
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        READERS[name][1](path)
        said = None
    except UserError as error:
        said = str(error)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    assert grown < MEGABYTES, f"{grown:.0f} MB of memory"
    assert said is None or len(said) < 3000, f"a message of {len(said)} characters"
    assert "\n" not in (said or ""), "a message of several lines"
    assert seconds < SECONDS, f"{seconds:.1f} s of the processor"
    return said is None


def run(name, count, check):
    """Call `check` with `count` damaged contents."""
    @seed(START)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases(name))
    def body(content):
        check(content)

    body()


@pytest.mark.parametrize("name", READERS)
def test_valid_input_is_read(name, tmp_path):
    assert attempt(name, valid(name), tmp_path / "valid")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damaged_input_is_read_or_refused(name, tmp_path, capsys):
    run(name, FAST // len(READERS), lambda content: attempt(name, content, tmp_path / "damaged"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_inputs(tmp_path, capsys):
    outcomes, kinds = collections.Counter(), collections.Counter()
    for name in READERS:
        def check(content, name=name):
            try:
                outcomes["read" if attempt(name, content, tmp_path / "damaged") else "refused"] += 1
            except Exception as error:
                outcomes["failed"] += 1
                place = next(f for f in reversed(traceback.extract_tb(error.__traceback__)) if "/modules/" in f.filename
                             or "/tests/" in f.filename)
                where = f"{os.path.relpath(place.filename)}:{place.lineno}"
                kinds[f"{name}: {type(error).__name__} at {where}"] += 1
        run(name, SLOW // len(READERS), check)
    with capsys.disabled():
        print(f"\n{sum(outcomes.values())} damaged inputs of {len(READERS)} readers: {dict(outcomes)}")
        for kind, count in kinds.most_common():
            print(f"{count:6d}  {kind}")
    assert not kinds
