"""Tables, encodings and the drawing of choices."""
import itertools
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_script

from modules.search_space import get_available_superspaces, get_superspace
from modules.search_space.config import BlockChoice, SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError

PUBLISHED = ["mobile_original", "mobile_v1", "mobile_v1_res", "mobilew", "onnx", "onnx_v1", "onnxw"]

# spaceevo.md 1.1, transcribed: per stage first-last/step of the widths, then of the depths, then the stride.
STAGES = {
    "mobilew": "16-32/8 1 2, 16-32/8 1-2 1, 24-40/8 2-4 2, 24-72/8 2-4 2, 56-112/8 2-6 2, 112-176/8 2-8 1, "
               "special 2-8 2, 216-360/16 1-2 1",
    "onnxw": "16-32/16 1 2, 16-32/16 1-2 1, 32-64/16 2-4 2, 32-96/16 2-4 2, 64-144/16 2-6 2, 112-192/16 2-6 1, "
             "192-304/16 2-6 2, 304-448/16 1-2 1",
    "mobile_original": "32-40/8 1 2, 16-24/8 1 1, 24-32/8 2-4 2, 40-56/8 2-4 2, 80-104/8 2-4 2, 96-128/8 2-4 1, "
                       "192-256/16 2-4 2, 320-416/16 2-4 1",
    "mobile_v1": "32-40/8 1 2, 16-24/8 1 1, 24-32/8 2-4 2, 40-56/8 2-4 2, 80-104/8 2-4 2, 96-128/8 2-6 1, "
                 "192-256/16 2-6 2, 320-416/16 1-2 1",
    "onnx": "16-32/16 1 2, 16-32/16 1-2 1, 32-48/16 2-3 2, 48-64/16 2-4 2, 80-128/16 2-6 2, 128-144/16 2-6 1, "
            "192-256/16 2-6 2, 320-432/16 1-2 1",
}
STAGES["mobile_v1_res"], STAGES["onnx_v1"] = STAGES["mobile_v1"], STAGES["onnx"]
SPECIAL_WIDTHS = (192, 200, 208, 216, 224, 240, 256, 272, 288)  # mobilew stage5
# spaceevo.md 1.2: block, kernels, expand ratios, activation.
CANDIDATES = {
    "mobilew": "V1Dual 357 - relu, V2Res 357 3/6/8 relu6, V3Res 357 3/6/8 swish, ResNet 35 .5/1/1.5 relu, "
               "FusedMBConvSERes 357 1/2/3/4 swish, V3K3Res 357 3/6/8 swish, V2K3Res 357 3/6/8 relu6",
    "onnxw": "V1Dual 35 - relu, V2Res 35 4/6/8 relu6, V3Res 35 4/6/8 hswish, ResNet 357 .5/1/1.5 relu, "
             "ResNetSE 357 .5/1/1.5 relu, FusedMBConvRes 357 1/2/3/4 swish",
    "mobile_original": "V1 357 - relu, V2 357 3/6/8 relu6, V3 357 3/6/8 hswish, ResNet 35 .5/1/1.5 relu, "
                       "ResNetSE 35 .5/1/1.5 relu",
    "mobile_v1_res": "V1 357 - relu, V2Res 357 3/6/8 relu6, V3Res 357 3/6/8 hswish, ResNet 35 .5/1/1.5 relu, "
                     "ResNetSE 35 .5/1/1.5 relu, V1Dual 357 - relu, ResNetBug 35 .5/1/1.5 relu",
    "onnx": "V1Dual 35 - relu, V2Res 35 4/6/8 relu6, V3Res 35 4/6/8 hswish, ResNet 357 .5/1/1.5 relu, "
            "ResNetSE 357 .5/1/1.5 relu",
    "onnx_v1": "V1Dual 35 - relu, V2Res 35 4/6/8 relu6, V3Res 35 4/6/8 hswish, ResNet 35 .5/1/1.5 relu, "
               "ResNetSE 35 .5/1/1.5 relu",
}
CANDIDATES["mobile_v1"] = CANDIDATES["mobile_original"]
CANDIDATES["onnxw_tiny"] = CANDIDATES["onnxw"]


def as_text(candidate):
    """A candidate in the notation of the table above."""
    expands = "-" if candidate.expands == (None,) else "/".join(f"{e:g}".lstrip("0") for e in candidate.expands)
    kernels = "".join(map(str, candidate.kernels))
    return f"{candidate.block.replace('MobileNet', '')} {kernels} {expands} {candidate.act}"


def spread(text):
    """The values of `first-last/step`, `first-last` or `value`."""
    ends, _, step = text.partition("/")
    first, _, last = ends.partition("-")
    return tuple(range(int(first), int(last or first) + 1, int(step or 1)))


def test_registered():
    """The published superspaces in their order, then ours."""
    assert get_available_superspaces() == [*PUBLISHED, "onnxw_tiny", "cifarw", "cifarw_tiny", "cifarw_short"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_stage_tables(name):
    """Widths, depths and strides of the stages, and the head."""
    space = get_superspace(name)
    assert [s.name for s in space.elastic] == ["first_conv", *(f"stage{i}" for i in range(7))]
    assert [s.name for s in space.searched] == [f"stage{i}" for i in range(1, 7)]
    for stage, row in zip(space.elastic, STAGES[name].split(", "), strict=True):
        widths, depths, stride = row.split()
        assert stage.widths == (SPECIAL_WIDTHS if widths == "special" else spread(widths))
        assert (stage.depths, stage.stride) == (spread(depths), int(stride))
    assert [(s.name, s.widths, s.depths, s.stride) for s in space.stages[8:]] == [
        ("final_expand", (1280,), (1,), 1), ("feature_mix", (1920,), (1,), 1), ("logits", (1000,), (1,), 1)]
    assert space.resolutions == (160, 176, 192, 208, 224)
    assert space.block_kd_resolutions == (160, 192, 224)


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates(name):
    """Block types, kernel sizes, expand ratios and activations."""
    space = get_superspace(name)
    assert ", ".join(map(as_text, space.candidates)) == CANDIDATES[name]
    stage0 = "V2 3 1 relu" if name.startswith("mobile") else "ResNet 3 .5 relu"
    head = "swish" if name == "mobilew" else "hswish"
    assert {stage: as_text(candidate) for stage, candidate in space.fixed.items() if stage != "logits"} == {
        "first_conv": "Conv 3 - relu", "stage0": stage0, "final_expand": f"Conv 1 - {head}",
        "feature_mix": f"FeatureMix 1 - {head}"}


@pytest.mark.parametrize(("name", "windows", "spaces"), [
    ("mobilew", (2, 6, 6, 7, 5, 4), 1.19e9), ("onnxw", (2, 4, 4, 4, 4, 4), 9.56e7), ("onnx", (1,) * 6, 5**6)])
def test_windows(name, windows, spaces):
    """The number of width windows per stage, and of search spaces."""
    space = get_superspace(name)
    assert tuple(s.num_windows for s in space.searched) == windows
    assert len(space.candidates) ** 6 * np.prod(windows, dtype=float) == pytest.approx(spaces, rel=5e-3)


def test_window_widths():
    """Window c is a run of widths from index c; -1 is the whole list."""
    stage5 = get_superspace("mobilew").stage("stage5")
    assert stage5.window_widths(0) == (192, 200, 208, 216, 224)
    assert stage5.window_widths(4) == (224, 240, 256, 272, 288)
    assert stage5.window_widths(-1) == SPECIAL_WIDTHS
    assert get_superspace("onnx").stage("stage2").window_widths(0) == (48, 64)


@st.composite
def subnet_spaces(draw):
    """Any space of any superspace, at a list of resolutions."""
    space = get_superspace(draw(st.sampled_from(get_available_superspaces())))
    blocks = tuple(draw(st.integers(0, len(space.candidates) - 1)) for _ in space.searched)
    windows = tuple(draw(st.integers(0, s.num_windows - 1)) for s in space.searched)
    resolutions = draw(st.sampled_from([space.resolutions, (32, 48, 64), (224,)]))
    return SubnetSpace(SupernetConfig(space.name, blocks, windows), resolutions)


def rngs():
    """Both kinds of numpy generators."""
    return st.integers(0, 2**32 - 1).flatmap(
        lambda seed: st.sampled_from([np.random.default_rng(seed), np.random.RandomState(seed)]))


def assert_legal(space, choice):
    """`check` accepts it, and its string gives it back."""
    assert space.check(choice) is choice
    assert SubnetChoiceConfig.from_str(str(choice)) == choice
    assert str(SubnetChoiceConfig.from_str(str(choice))) == str(choice)


@given(subnet_spaces(), rngs(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_choice_is_legal(space, rng, align):
    """Sampled, mutated and crossed-over choices, and the extremes, belong to the space; children to their parents."""
    a, b = space.sample(rng, align), space.sample(rng)
    child = space.crossover(a, b, rng)
    for choice in (a, b, child, space.mutate(a, rng), space.mutate(b, rng, 1.0, 1.0), space.extreme(max),
                   space.extreme(min)):
        assert_legal(space, choice)
    assert not align or all(len(set(blocks)) == 1 for blocks in a.stages)
    assert space.mutate(a, rng, 0.0, 0.0) == a
    assert child.resolution in (a.resolution, b.resolution)
    for blocks, *parents in zip(child.stages, a.stages, b.stages, strict=True):
        assert len(blocks) in map(len, parents)
        for i, block in enumerate(blocks):
            pair = [p[i] for p in parents if i < len(p)]
            for field in ("kernel", "width", "expand"):
                assert getattr(block, field) in [getattr(p, field) for p in pair]


@given(subnet_spaces())
@settings(max_examples=60, deadline=None)
def test_supernet_string_round_trip(space):
    """The full string, the choice alone, and with an underscore."""
    config = space.config
    assert SupernetConfig.from_str(str(config)) == config
    assert hash(SupernetConfig.from_str(str(config))) == hash(config)
    assert SupernetConfig.from_choice(config.superspace, config.choice.replace("-", "_")) == config
    without_windows = SupernetConfig.from_str(str(config).rpartition("-")[0])
    assert without_windows == replace(config, windows=(0,) * len(config.windows))


@given(subnet_spaces(), rngs(), st.data())
@settings(max_examples=60, deadline=None)
def test_check_refuses_what_lies_outside(space, rng, data):
    """One value moved out of the space: the message names it and the allowed values."""
    choice = space.sample(rng)
    i = data.draw(st.integers(0, len(space.stages) - 1))
    stage, blocks = space.stages[i], choice.stages[i]
    what = data.draw(st.sampled_from(["kernel", "width", "expand", "depth", "resolution"]))
    value = {"kernel": 9, "width": stage.widths[-1] + 8, "expand": 5.5, "resolution": 225,
             "depth": max(stage.depths) + 1}[what]
    allowed = {"kernel": stage.candidate.kernels, "width": stage.widths, "expand": stage.candidate.expands,
               "resolution": space.resolutions, "depth": stage.depths}[what]
    if what == "resolution":
        wrong = replace(choice, resolution=value)
    else:
        blocks = blocks[:1] * value if what == "depth" else (*blocks[:-1], replace(blocks[-1], **{what: value}))
        wrong = replace(choice, stages=(*choice.stages[:i], blocks, *choice.stages[i + 1:]))
    with pytest.raises(UserError) as error:
        space.check(wrong)
    message = str(error.value)
    assert "\n" not in message
    assert str(value) in message
    assert ", ".join(map(str, allowed)) in message
    assert what == "resolution" or stage.name in message


def test_width_outside_its_window():
    """A width of the stage's list that another window holds is refused."""
    space = SubnetSpace(SupernetConfig.from_str("onnxw-151122-023231"), (160,))
    text = str(space.extreme(min)).replace("w16#16#32#32#64#64", "w16#16#32#32#32#64")
    with pytest.raises(UserError, match=r"width 32 in stage2 of onnxw-151122-023231; allowed: 64, 80"):
        space.check(SubnetChoiceConfig.from_str(text))


def test_published_draw():
    """spaceevo_details.md F.4: numpy's legacy generator, seed 0."""
    space = SubnetSpace(SupernetConfig.from_str("mobilew-122222-155400"), (192, 208, 224))
    assert str(space.sample(np.random.RandomState(0))) == (
        "d1#2#3#4#2#3#2#2_k3#3#3#5#7#3#7#5#3#3#7#5#5#7#7#3#5#3#7"
        "_w16#24#16#32#32#32#64#72#72#72#96#112#152#144#144#224#192#232#216"
        "_e0#1.0#1.0#3.0#3.0#6.0#6.0#6.0#3.0#6.0#6.0#3.0#3.0#8.0#8.0#6.0#3.0#8.0#6.0_r208")


def assert_uniform(values, options):
    """Pearson's statistic within its mean plus five standard deviations (the draws are seeded, so this is fixed)."""
    counts = np.array([values.count(option) for option in options])
    assert counts.sum() == len(values)
    expected, freedom = len(values) / len(options), len(options) - 1
    assert ((counts - expected) ** 2 / expected).sum() <= freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("align", [False, True])
def test_sampling_is_uniform(align):
    """Depth, kernel size, width, expand ratio and resolution, at each stage; first and last block alike."""
    space = SubnetSpace(SupernetConfig.from_str("mobilew-122222-155400"), (160, 176, 192, 208, 224))
    rng = np.random.default_rng(1)
    choices = [space.sample(rng, align) for _ in range(1500)]
    assert_uniform([c.resolution for c in choices], space.resolutions)
    for i, stage in enumerate(space.stages):
        assert_uniform([len(c.stages[i]) for c in choices], stage.depths)
        for which in (0, -1):
            blocks = [c.stages[i][which] for c in choices]
            assert_uniform([b.kernel for b in blocks], stage.candidate.kernels)
            assert_uniform([b.width for b in blocks], stage.widths)
            assert_uniform([b.expand for b in blocks], stage.candidate.expands)


def test_mutation_rates():
    """Each value is redrawn with its probability; a redraw may give the same value."""
    space = SubnetSpace(SupernetConfig.from_str("onnxw-151122-023231"), (160, 176, 192, 208, 224))
    rng, parent = np.random.default_rng(3), space.extreme(max)
    mutants = [space.mutate(parent, rng, 0.3, 0.5) for _ in range(2000)]
    resolution = np.mean([m.resolution != parent.resolution for m in mutants])
    kernel = np.mean([m.stages[3][0].kernel != parent.stages[3][0].kernel for m in mutants])
    depth = np.mean([len(m.stages[4]) != len(parent.stages[4]) for m in mutants])
    assert resolution == pytest.approx(0.5 * 4 / 5, abs=0.04)
    assert kernel == pytest.approx(0.3 * 1 / 2, abs=0.04)
    assert depth == pytest.approx(0.3 * 4 / 5, abs=0.04)


def test_crossover_rates():
    """Depth, resolution and each value of a block come from either parent, half of the time each and independently."""
    space = SubnetSpace(SupernetConfig.from_str("onnxw-151122-023231"), (160, 224))
    rng, a, b = np.random.default_rng(4), space.extreme(max), space.extreme(min)
    children = [space.crossover(a, b, rng) for _ in range(1000)]
    block = [c.stages[3][0] for c in children]
    from_a = [[c.resolution == 224 for c in children], [len(c.stages[4]) == len(a.stages[4]) for c in children],
              *([getattr(x, f) == getattr(a.stages[3][0], f) for x in block] for f in ("kernel", "width", "expand"))]
    assert np.mean(from_a, axis=1) == pytest.approx(0.5, abs=0.07)
    assert np.corrcoef(from_a)[~np.eye(5, dtype=bool)] == pytest.approx(0, abs=0.15)


def test_size():
    """The number of subnets, against listing the options of each stage."""
    space = SubnetSpace(SupernetConfig.from_str("onnxw_tiny-054321-000000"), (32, 48))
    total = 2
    for s in space.stages:
        options = list(itertools.product(s.candidate.kernels, s.widths, s.candidate.expands))
        total *= len({blocks for depth in s.depths for blocks in itertools.product(options, repeat=depth)})
    assert space.size == total


def test_choices_are_values():
    """Equal choices are one set member; an integer and a float expand ratio are the same."""
    a = SubnetChoiceConfig(((BlockChoice(3, 16),), (BlockChoice(5, 24, 4),)), 32)
    b = SubnetChoiceConfig.from_str("d1#1_k3#5_w16#24_e0#4.0_r32")
    assert len({a, b}) == 1
    assert str(a) == "d1#1_k3#5_w16#24_e0#4.0_r32"


@pytest.mark.parametrize(("encoding", "named"), [
    ("nowhere-151122-023231", ("'nowhere'", "mobilew, onnx, onnx_v1, onnxw")),
    ("onnxw", ("'onnxw'", "<superspace>-<blocks>-<windows>")),
    ("onnxw-15112x-023231", ("'15112x-023231'", "onnxw", "block digits")),
    ("onnxw-15112-023231", ("'15112'", "6 are needed", "stage1, stage2, stage3, stage4, stage5, stage6")),
    ("onnxw-1511221", ("'1511221'", "6 are needed")),
    ("onnxw-151122-02323", ("'02323'", "6 are needed")),
    ("onnxw-151162-023231", ("block choice 6 of stage5", "0 to 5")),
    ("onnxw-151122-023241", ("width window 4 of stage5", "0 to 3")),
    ("onnx-444444-000100", ("width window 1 of stage4", "0 to 0")),
])
def test_bad_supernet_encoding(encoding, named):
    """One line with the value and the allowed ones."""
    with pytest.raises(UserError) as error:
        SupernetConfig.from_str(encoding)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in named)


@pytest.mark.parametrize(("encoding", "named"), [
    ("d1#1_k3#5_w16#24_r32", ("'d1#1_k3#5_w16#24_r32'", "d..._k..._w..._e..._r<resolution>")),
    ("d1#1_k3#5_w16_e0#4.0_r32", ("1 values", "'w'", "2 blocks")),
    ("d1#1_k3#x_w16#24_e0#4.0_r32", ("d1#1_k3#x", "'x'")),
    ("d1#1_k3#5_w16#24_e0#4.0_r", ("d1#1_k3#5_w16#24_e0#4.0_r",)),
    ("d1#1_k3#5_w16#24_e0#4.0_r0", ("resolution 0", "8 to 8192 pixels")),
    ("d1#1_k3#5_w16#24_e0#4.0_r-32", ("resolution -32", "8 to 8192 pixels")),
    ("d1#1_k3#5_w16#24_e0#4.0_r100000000", ("resolution 100000000", "8 to 8192 pixels")),
    ("", ("''", "r<resolution>")),
])
def test_bad_subnet_encoding(encoding, named):
    """One line with the encoding and its fault."""
    with pytest.raises(UserError) as error:
        SubnetChoiceConfig.from_str(encoding)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in named)


@given(st.one_of(st.text(max_size=40), st.text("dkwer#_-.0123456789x", max_size=40),
                 st.from_regex(r"d\d(#\d)?_k\d(#\d)?_w\d#-?\d_e[\dna]+#[.\d]_r\d", fullmatch=True)))
@settings(max_examples=150, deadline=None)
def test_any_text_parses_or_is_refused(text):
    """No other exception than UserError leaves the parsers."""
    with suppress(UserError):
        SubnetChoiceConfig.from_str(text)
    with suppress(UserError):
        SupernetConfig.from_str(text)
    with suppress(UserError):
        SupernetConfig.from_choice("onnxw", text)


def test_wrong_number_of_stages():
    """A subnet of another space's shape is refused with the stages' names."""
    space = SubnetSpace(SupernetConfig.from_str("onnxw-151122-023231"), (160,))
    with pytest.raises(UserError, match="subnet with 2 stages; onnxw-151122-023231 has 8: first_conv, stage0"):
        space.check(SubnetChoiceConfig.from_str("d1#1_k3#5_w16#24_e0#4.0_r32"))


@pytest.mark.parametrize("module", ["search_space", "search_space.config", "search_space.subnet_space",
                                    "modeling.spec", "modeling.walk", "modeling.net_spec", "modeling.complexity",
                                    "block_kd.lut"])
def test_imports_without_torch(module):
    """Tables, structures and counts load no torch."""
    code = f"import sys, modules.{module}; sys.exit('torch' in sys.modules)"
    assert run_script("-c", code).returncode == 0
