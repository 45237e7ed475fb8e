"""Every option of every command refuses a value that its setting does not allow, in one line with option and value.

The options are read from the parsers themselves, so that a new one is covered by being added.
"""
import importlib
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING

import pytest
import yaml
from command_lines import FOLDERS, scripts

from modules.training.config import TrainConfig, load_yaml
from modules.utils import cli
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.settings import OptionType, Setting, settings_of

SCRIPTS = scripts(*FOLDERS, "benchmarks", "benchmarks/gpu")
COMMANDS = sorted(str(p.relative_to(REPOSITORY).parent).replace("/", ".")
                  for p in (REPOSITORY / "modules").rglob("__main__.py"))
DIGITS = "7" * 400


class Parsed(Exception):
    """The command line was accepted, or the parser is wanted: the command must not run."""

    def __init__(self, parser: cli.Parser):
        self.parser = parser


@pytest.fixture
def main(request, monkeypatch) -> Callable:
    """The main function of a script or a module, which stops once it has parsed its command line."""
    parse_args = cli.Parser.parse_args

    def stop(parser, args=None, namespace=None):
        if args:
            parse_args(parser, args, namespace)
        raise Parsed(parser)

    monkeypatch.setattr(cli.Parser, "parse_args", stop)
    folder = str((REPOSITORY / request.param).parent)  # first, as where a script runs
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
    if request.param.endswith(".py"):
        return runpy.run_path(str(REPOSITORY / request.param), run_name="script")["main"]
    return importlib.import_module(f"{request.param}.__main__").main


def bad_values(known: Setting) -> Iterator[str]:
    """Values that `known` must refuse."""
    if known.choices:
        yield from ("none of them", DIGITS)
    elif known.kind in (int, float):
        yield from ("nan", "inf", "-inf", "1e999", "many", "", "1 2", DIGITS if known.kind is int else f"{DIGITS}e9")
        if known.kind is int:
            yield from ("1.5", "1e-3")
        margin = 1 if known.kind is int else 1e-3
        for bound in (known.low, known.high):
            if bound is not None:
                sign = 1 if bound == known.high else -1
                beyond = bound + sign * margin
                yield f"{beyond if beyond != known.default else beyond + sign * margin}"
        yield from (f"{bound}" for bound in (known.above, known.below) if bound is not None)


@pytest.mark.parametrize("main", [*SCRIPTS, *COMMANDS], indirect=True)
def test_bad_values_are_refused_in_one_line(main):
    with pytest.raises(Parsed) as found:
        main([])
    actions = [action for action in found.value.parser._actions if action.nargs != 0]
    for action in actions:
        assert isinstance(action.type, OptionType), f"{action.dest} has no setting"
        known = action.type.setting
        if known.kind in (int, float):
            assert known.low is not None or known.above is not None, f"{action.dest} has no least value"
        for name in action.option_strings:
            for value in bad_values(known):
                given = [f"{name}={value}" if name.startswith("--") else f"{name}{value}"]
                if isinstance(action.nargs, int):
                    given = [name, *[value.lstrip("-")] * action.nargs]
                with pytest.raises(UserError) as refused:
                    main(given)
                message = str(refused.value)
                assert action.type.name in message, (name, value)
                assert value.lstrip("-")[:40] in message, (name, value)
                assert "\n" not in message
                assert len(message) < 400


@pytest.mark.parametrize("main", [*SCRIPTS, *COMMANDS], indirect=True)
def test_help_tells_what_is_allowed(main):
    with pytest.raises(Parsed) as found:
        main([])
    for action in found.value.parser._actions:
        if isinstance(action.type, OptionType):
            known = action.type.setting
            assert known.meaning
            assert known.allowed in action.help
            if known.default not in (MISSING, None, "", ()) and not known.shown and known.kind is not bool:
                assert "default: " in action.help


@pytest.mark.parametrize("main", [*SCRIPTS, *COMMANDS], indirect=True)
def test_shipped_inputs_are_found_from_any_folder(main, tmp_path, monkeypatch):
    """A default that names a file of the project, not one that is written, is the same file wherever a command runs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Parsed) as found:
        main([])
    for action in found.value.parser._actions:
        default = str(action.default)
        if "/" in default and "output" not in action.dest and (REPOSITORY / default).is_file():
            assert (tmp_path / default).exists(), f"{action.dest}: {default}"
        if default.startswith(("data/", "supernet_training_configs/")):
            pytest.fail(f"{action.dest}: {default}")


@pytest.mark.parametrize(("main", "option"), [
    ("train_supernet.py", "--batch_size_per_gpu"), ("train_supernet.py", "--quant_max_batch_size_per_gpu"),
    ("eval_supernet.py", "--batch_size_per_gpu"), ("onnx_tools/export_onnx.py", "--batch_size_per_gpu"),
    ("search_subnet.py", "--batch_size"), ("downstream_cls.py", "--batch_size"), ("adj_quant/train.py", "--batch_size"),
    ("train_block_kd.py", "--train_batch_size"), ("eval_block_kd.py", "--train_batch_size"),
    ("modules.block_kd.teacher", "--train_batch_size")], indirect=["main"])
def test_a_batch_for_batch_norm_has_two_images(main, option):
    with pytest.raises(UserError, match=f"{option} 1; allowed: 2 or more images"):
        main([option, "1"])


def test_an_unknown_option_is_refused_with_the_nearest_name():
    parser = cli.make_parser("")
    cli.add_run_arguments(parser, "run")
    with pytest.raises(UserError, match="unknown argument --overwrit, nearest: --overwrite"):
        parser.parse_args(["--overwrit"])


@pytest.mark.parametrize("name", settings_of(TrainConfig))
def test_bad_values_in_a_yaml_file(name, tmp_path):
    known = settings_of(TrainConfig)[name]
    values = [[1, 2], {"a": 1}] if not known.many else [{"a": 1}, 3]
    values += [value for value in bad_values(known) if value and value != "1 2"]
    for value in [*values, float("nan"), 10**399] if known.kind in (int, float) else values:
        given = [value] if known.many and not isinstance(value, dict | int) else value
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({name: given}))
        with pytest.raises(UserError) as refused:
            load_yaml(tmp_path / "bad.yaml")
        message = str(refused.value)
        assert "bad.yaml" in message
        assert name in message
        assert "\n" not in message
