"""The layers that docs/contributing.md draws: imports run down, in no circle, and some packages do without torch."""
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import run_script

from modules.utils.files import REPOSITORY

SCRIPT_FOLDERS = (".", "onnx_tools", "tflite_tools", "zen_nas", "adj_quant")
MOST_FILES = 16


class Import(NamedTuple):
    """A module that a file imports; `late`: only when a function is called, or for type checkers."""

    name: str
    late: bool


@dataclass(frozen=True)
class Layers:
    """The picture: lines of names from the top one down, the same within packages, and the names without torch."""

    staircase: list[set[str]]
    rooms: dict[str, list[set[str]]]
    no_torch: list[str]

    @classmethod
    def read(cls, page: str) -> "Layers":
        """The block marked `layers` of a page in markdown."""
        (block,) = re.findall(r"^```layers\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        lines = [line.partition(":") for line in block.splitlines() if line.strip()]
        named = {name: text for name, colon, text in lines if colon}
        no_torch = named.pop("no torch").split()
        rooms = {name: [set(line.split()) for line in text.split(">")] for name, text in named.items()}
        return cls([set(name.split()) for name, colon, _ in lines if not colon], rooms, no_torch)


def python_files(root: Path) -> dict[str, Path]:
    """The modules under `root`/modules by their dotted names, and the scripts as `scripts.NAME`."""
    files = {}
    for path in sorted((root / "modules").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files | {f"scripts.{path.stem}": path for folder in SCRIPT_FOLDERS for path in (root / folder).glob("*.py")}


def imports(path: Path, files: dict[str, Path]) -> set[Import]:
    """The imports of the file `path`, each by the longest name that is a module of `files`, or else by its written
    name."""
    found = set()
    for node, late in _statements(ast.parse(path.read_text()), late=False):
        if isinstance(node, ast.Import):
            found |= {Import(alias.name, late) for alias in node.names}
        else:
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                longest = f"{node.module}.{alias.name}"
                found.add(Import(longest if longest in files else node.module, late))
    return found


def _statements(node: ast.AST, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, late
        else:
            lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            yield from _statements(child, late or lazy)


def _line(name: str, staircase: list[set[str]]) -> int | None:
    return next((i for i, names in enumerate(staircase) if name in names), None)


def upward(graph: dict[str, set[str]], layers: Layers) -> list[str]:
    """The imports that do not run down, each as "importer -> imported"; the packages that the picture lacks."""
    package = {name: name.split(".")[name.startswith("modules.")] for name in graph if name != "modules"}
    wrong = [f"{name} is in no line of the picture" for name in sorted(set(package.values()))
             if _line(name, layers.staircase) is None]
    for name, targets in graph.items():
        for target in targets & set(package):
            steps = [(package[name], package[target], layers.staircase)]
            if package[name] == package[target] in layers.rooms:
                inner = [(full.split(".") + [""] * 3)[2] for full in (name, target)]
                steps.append((*inner, layers.rooms[package[name]]))
            for upper, lower, staircase in steps:
                lines = _line(upper, staircase), _line(lower, staircase)
                if upper != lower and None not in lines and lines[0] >= lines[1]:
                    wrong.append(f"{name} -> {target}")
        wrong += [f"{name} -> {target}" for target in targets if f"scripts.{target}" in graph]
    return sorted(wrong)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, in order; none: empty."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def torch_importers(root: Path, layers: Layers) -> list[str]:
    """The modules of packages without torch that import it; "a -> b" where b is loaded with a, and imports it."""
    files = python_files(root)
    found = {name: imports(path, files) for name, path in files.items()}

    def direct(name: str, late: bool) -> bool:
        return any(re.match(r"torch(vision)?\b", i.name) and late >= i.late for i in found[name])

    def loaded(name: str) -> set[str]:
        seen, waiting = set(), [name]
        while waiting:
            module = waiting.pop()
            parents = {".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 2)}
            for new in (parents & set(files)) - seen:
                seen.add(new)
                waiting += [i.name for i in found[new] if not i.late]
        return seen

    without = [n for n in files for p in layers.no_torch if f"{n}.".startswith(f"modules.{p}.")]
    return ([name for name in without if direct(name, late=True)]
            + [f"{name} -> {other}" for name in without for other in sorted(loaded(name) - {name})
               if direct(other, late=False)])


def import_graph(root: Path) -> dict[str, set[str]]:
    """The modules and scripts, and the imports of each, at once or later."""
    files = python_files(root)
    return {name: {i.name for i in imports(path, files)} - {name} for name, path in files.items()}


@pytest.fixture(scope="module")
def layers():
    return Layers.read((REPOSITORY / "docs" / "contributing.md").read_text())


def test_imports_run_down(layers):
    assert upward(import_graph(REPOSITORY), layers) == []


def test_no_circle_of_imports():
    assert circle(import_graph(REPOSITORY)) == []


def test_packages_without_torch(layers):
    """By reading, and by importing every module of theirs in a process that has no torch."""
    assert torch_importers(REPOSITORY, layers) == []
    names = [name for name in python_files(REPOSITORY) for package in layers.no_torch
             if f"{name}.".startswith(f"modules.{package}.") and not name.endswith("__main__")]
    assert len(names) > 30
    code = f"import importlib, sys\nsys.modules['torch'] = None\nfor name in {names}: importlib.import_module(name)"
    done = run_script("-c", code)
    assert done.returncode == 0, done.stderr


def test_picture_names_what_exists(layers):
    packages = {path.name for path in (REPOSITORY / "modules").iterdir() if path.suffix == ".py" or path.is_dir()}
    drawn = set().union(*layers.staircase) - {"scripts"}
    assert drawn <= {name.removesuffix(".py") for name in packages}
    for package, staircase in layers.rooms.items():
        for room in set().union(*staircase):
            assert (REPOSITORY / "modules" / package / room).is_dir(), f"{package}/{room}"


def test_no_folder_is_full():
    folders = [path for path in (REPOSITORY / "modules").rglob("*") if path.is_dir()]
    counts = {str(f.relative_to(REPOSITORY)): len(list(f.glob("*.py"))) for f in folders}
    assert {name: count for name, count in counts.items() if count > MOST_FILES} == {}


PAGE = """
```layers
scripts
high
low  beside

high:  attic > hall
no torch:  low
```
"""
SOUND = {
    "run.py": "from modules.high.attic import roof", "modules/__init__.py": "", "modules/high/__init__.py": "",
    "modules/high/attic/__init__.py": "", "modules/high/attic/roof.py": "import modules.high.hall.door\nimport torch",
    "modules/high/hall/__init__.py": "", "modules/high/hall/door.py": "from modules.low import base",
    "modules/low/__init__.py": "", "modules/low/base.py": "import json", "modules/beside/__init__.py": ""}


@pytest.mark.parametrize(("path", "text", "wrong", "ring", "torch"), [
    ("modules/low/other.py", "", [], [], []),
    ("modules/low/base.py", "from modules.high import hall", ["modules.low.base -> modules.high.hall"], [], []),
    ("modules/low/base.py", "def f():\n    from modules.high.hall.door import knock",
     ["modules.low.base -> modules.high.hall.door"], ["modules.high.hall.door", "modules.low.base"], []),
    ("modules/low/base.py", "import modules.beside", ["modules.low.base -> modules.beside"], [], []),
    ("modules/low/base.py", "import run", ["modules.low.base -> run"], [], []),
    ("modules/high/hall/lamp.py", "import modules.high.attic.roof",
     ["modules.high.hall.lamp -> modules.high.attic.roof"], [], []),
    ("modules/new/__init__.py", "", ["new is in no line of the picture"], [], []),
    ("modules/low/base.py", "def f():\n    from torch import nn", [], [], ["modules.low.base"]),
    ("modules/low/base.py", "import modules.low.tensors", [], [],
     ["modules.low.tensors", "modules.low.base -> modules.low.tensors"]),
])
def test_checks_can_fail(tmp_path, path, text, wrong, ring, torch):
    """A made-up tree passes; each mistake put into it is found, and nothing else."""
    extra = {"modules/low/tensors.py": "import torch"} if "tensors" in text else {}
    for name, content in (SOUND | extra | {path: text}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    picture = Layers.read(PAGE)
    assert upward(import_graph(tmp_path), picture) == wrong
    assert set(circle(import_graph(tmp_path))) == set(ring)
    assert torch_importers(tmp_path, picture) == torch
