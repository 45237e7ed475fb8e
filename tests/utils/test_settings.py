"""Settings read, refused and shown; the yaml reader; training files of the published form."""
import re
from dataclasses import MISSING, dataclass

import pytest

from modules.adjustable.config import AdjustConfig
from modules.block_kd.lut.options import TableOptions
from modules.block_kd.student.config import BlockKDConfig
from modules.block_kd.teacher.config import TeacherConfig
from modules.search.subnet.settings import SearchSettings
from modules.training.arguments import Evaluation
from modules.training.config import TrainConfig, load_yaml
from modules.utils.cli import make_parser
from modules.utils.errors import UserError
from modules.utils.settings import (
    Setting,
    add_arguments,
    check_settings,
    from_arguments,
    idle_settings,
    option,
    read_settings,
    read_yaml,
    setting,
    settings_of,
)


@dataclass(frozen=True)
class Config:
    name: str = setting(MISSING, "name of the run")
    share: float = setting(0.5, "share of the images", low=0, below=1, aliases=("-s",))
    sizes: tuple[int, ...] = setting((32,), "image sizes", low=8, high=64, unit="pixels")
    limit: float | None = setting(None, "highest latency", above=0, unit="ms", shown="any")
    mode: str = setting("fast", "mode", choices=("fast", "exact"))
    loud: bool = setting(False, "all is printed")

    def __post_init__(self):
        check_settings(self)


def parse(*arguments: str, **options) -> Config:
    parser = make_parser("")
    add_arguments(parser, Config, **options)
    return from_arguments(Config, parser.parse_args(list(arguments)))


def test_options_become_the_configuration():
    assert parse("--name", "a") == Config("a")
    assert parse("--name", "a", "-s", "0.25", "--sizes", "8", "64", "--limit", "1e-3", "--mode", "exact", "--loud") == \
        Config("a", 0.25, (8, 64), 0.001, "exact", True)
    assert parse("--name", "a", "--loud", "false", switches=False) == Config("a")
    assert parse("--name", "a", "--sizes") == Config("a", sizes=())


@pytest.mark.parametrize(("values", "message"), [
    ({"share": float("nan")}, "--share nan; allowed: at least 0, below 1"),
    ({"share": 1}, "--share 1; allowed: at least 0, below 1"),
    ({"sizes": (32, 65)}, "--sizes 65; allowed: 8 to 64 pixels"),
    ({"limit": 0.0}, "--limit 0.0; allowed: above 0 ms"),
    ({"limit": float("inf")}, "--limit inf; allowed: above 0 ms"),
    ({"mode": "slow"}, "unknown value of --mode 'slow'; allowed: fast, exact"),
])
def test_a_configuration_made_by_code_is_checked_alike(values, message):
    with pytest.raises(UserError) as refused:
        Config("a", **values)
    assert str(refused.value) == message


@dataclass(frozen=True)
class Needy:
    rate: str = setting("cosine", "decay", choices=("cosine", "step"))
    floor: float = setting(0.0, "floor of the cosine", low=0, needs="rate=cosine")
    factor: float = setting(0.5, "factor of the steps", low=0, needs="rate!=cosine")
    start: str = setting("", "file", name="init_file")
    keep: bool = setting(False, "its head is kept", needs="start rate=cosine")


@pytest.mark.parametrize(("words", "told"), [
    ("", ""), ("--floor 1", ""), ("--floor 1 --rate step", "--floor has no effect with --rate step"),
    ("--factor 1", "--factor has no effect with --rate cosine"), ("--factor 1 --rate step", ""),
    ("--keep", "--keep has no effect without --init_file"), ("--keep --init_file a", ""),
    ("--keep --init_file a --rate step", "--keep has no effect with --rate step")])
def test_an_option_without_effect_is_told(words, told, capsys):
    parser = make_parser("")
    add_arguments(parser, Needy)
    from_arguments(Needy, parser.parse_args(words.split()))
    assert capsys.readouterr().err == (f"note: {told}\n" if told else "")


@pytest.mark.parametrize("cls", [TrainConfig, Evaluation, BlockKDConfig, TeacherConfig, TableOptions, AdjustConfig,
                                 SearchSettings])
def test_settings_need_settings_that_exist_and_values_they_can_have(cls):
    known = settings_of(cls)
    needs = [re.fullmatch(r"(\w+)(!?=)?(.*)", need).groups()
             for one in known.values() for need in one.needs.split()]
    assert needs
    for name, equal, value in needs:
        assert name in known
        if equal and value:
            known[name].read(value, name)


def test_the_predictor_of_a_random_search_selects_by_survival_too():
    settings = SearchSettings(limits=(1.0,), method="random", predictor="lightgbm", survival="pareto")
    assert not idle_settings(settings, ["survival", "predictor", "method"])


def test_help_shows_meaning_bounds_unit_and_default():
    parser = make_parser("")
    add_arguments(parser, Config)
    text = " ".join(parser.format_help().split())
    assert "-s FLOAT share of the images (at least 0, below 1; default: 0.5)" in text
    assert "image sizes (8 to 64 pixels; default: 32)" in text
    assert "highest latency (above 0 ms; default: any)" in text
    assert "mode (fast, exact; default: fast)" in text
    assert Setting(3, "rows", low=1, unit="rows").help == "rows (1 or more rows; default: 3)"
    assert Setting(0.5, "share, in %").help == "share, in %% (any finite number; default: 0.5)"


def test_whole_numbers_are_read_exactly():
    known = Setting(0, "seed", low=0, high=2**63 - 1)
    for text, value in (("9007199254740993", 2**53 + 1), ("3e2", 300), (7, 7), (7.0, 7)):
        read = known.read(text, "--seed")
        assert (read, type(read)) == (value, int)
    for bad in (True, "1.5", 2.5, "x", None, [1]):
        with pytest.raises(UserError, match=r"value .* of --seed; expected INT"):
            known.read(bad, "--seed")


def test_the_default_is_allowed_beyond_the_bounds():
    parser = make_parser("")
    option(parser, "--resolution", 0, "image size; 0: the model's", low=8)
    assert parser.parse_args(["--resolution", "0"]).resolution == 0
    with pytest.raises(UserError, match=r"--resolution 1; allowed: 8 or more"):
        parser.parse_args(["--resolution", "1"])


def test_an_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown setting in run.yaml: 'shar', nearest: share; allowed: name, share"):
        read_settings(Config, {"shar": 1}, "run.yaml")


@pytest.mark.parametrize(("content", "message"), [
    (b"a: 1\na: 2", "'a' is given twice.*line 2"),
    (b"a: &x [1]\nb: *x", r"alias \*x; aliases are not allowed.*line 2"),
    (b"[" * 100_000, "nested more than 20 deep"),
    (b"a: " + b"{b: " * 30, "nested more than 20 deep"),
    (b"a: \xff", "not UTF-8 text: byte 3 is 0xff"),
    (b"a: " + b"7" * 400, "number '777.*is too large"),
    (b"a: " + b"7" * 5000, "is not yaml"),
    (b"a: 0x" + b"f" * 5000, "is too large"),
    (b"a: 2024-99-99", "is not yaml"),
    (b"? [a]\n: 1", "is not yaml"),
    (b"!!python/object/apply:os.getcwd []", "is not yaml"),
    (b"- 1", "holds list; expected 'name: value' lines"),
    (b"a: 1\n" * 300_000, "larger than 1000000 bytes"),
], ids=lambda value: repr(value[:12]))
def test_hostile_yaml_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="aliases are not allowed"):
        read_yaml(tmp_path / "a.yaml")


def test_empty_and_marked_yaml_is_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"# nothing\n")
    assert read_yaml(tmp_path / "a.yaml") == {}
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1.5")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1.5}


PUBLISHED = """
sandwich_rule: True
inplace_distill: True
alpha_min: -1
iw_clip: 5
optimizer:
    method: sgd
    momentum: 0.8
    nesterov: True
lr_scheduler:
    method: warmup_cosine_lr
    base_lr: 0.3
    clamp_lr_percent: 0.0
dataset: imagenet
dataset_dir: /path/to/imagenet
n_classes: 1000
bn_momentum: 0
bn_eps: 1e-5
drop_last: True
dist_backend: nccl
distributed: True
multiprocessing_distributed: True
start_epoch: 0
resume: ""
debug: ""
debug_batches: 20
"""


def test_a_published_training_file_means_what_it_did(tmp_path, capsys):
    (tmp_path / "train.yaml").write_text(PUBLISHED)
    config = TrainConfig(**load_yaml(tmp_path / "train.yaml"))
    assert config == TrainConfig(momentum=0.8, base_lr=0.3, dataset_path="/path/to/imagenet")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for word in ("dataset 'imagenet'", "n_classes 1000", "bn_momentum 0", "bn_eps '1e-5'", "drop_last True"):
        assert word in said


@pytest.mark.parametrize(("line", "message"), [
    ("sandwich_rule: False", "sandwich_rule False is no setting here: subnet_choice"),
    ("resume: a.pth", "resume 'a.pth' is no setting here: the option --resume"),
    ("start_epoch: 3", "start_epoch 3 is no setting here: the option --resume"),
    ("debug: 1", "debug 1 is no setting here: debug_batches"),
    ("lr_scheduler: {method: [cosine]}", "schedule; expected TEXT"),
    ("lr_scheduler: {method: {a: 1}}", "schedule; expected TEXT"),
    ("lr_scheduler: {method: step}", "schedule 'step'; allowed: cosine, linear"),
    ("optimizer: {method: sgd, betas: 1}", "optimizer: 'betas'; allowed: method, momentum, nesterov"),
    ("optimizer: {momentum: 2}", "momentum 2; allowed: at least 0, below 1"),
])
def test_published_settings_that_are_not_here_are_named(tmp_path, line, message):
    (tmp_path / "train.yaml").write_text(line)
    with pytest.raises(UserError, match=message):
        load_yaml(tmp_path / "train.yaml")


def test_a_dataset_dir_alone_is_another_name(tmp_path):
    (tmp_path / "train.yaml").write_text("dataset_dir: x\nbn_momentum: 0.2")
    assert load_yaml(tmp_path / "train.yaml") == {"dataset_path": "x", "bn_momentum": 0.2}


def test_nesterov_needs_momentum():
    with pytest.raises(UserError, match="--momentum 0 with --nesterov true"):
        TrainConfig(momentum=0)
    assert TrainConfig(momentum=0, nesterov=False).momentum == 0
