"""Multiply-accumulates and parameters: against the published tables, and against hooks on torch modules."""
from dataclasses import replace

import pytest
import torch
import yaml

from modules.block_kd.lut.counts import count_stage, published_float32
from modules.modeling.blocks import Block
from modules.modeling.complexity import count_block, count_net_flops_and_params
from modules.modeling.net_spec import NetSpec, resolve
from modules.modeling.network import QNetwork
from modules.modeling.spec import BlockArgs, build_block, make_divisible
from modules.modeling.supernet import Supernet
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

RESULTS = yaml.safe_load((REPOSITORY / "data" / "search_results.yaml").read_text())

# spaceevo.md 5.1: MFLOPs as the published counter prints them (float32 sums), exact Mparams.
SUBNETS = {
    "SEQnet@pixel4-A0": ("112.921328", "6.376797"), "SEQnet@pixel4-A1": ("273.979264", "9.705900"),
    "SEQnet@pixel4-A2": ("398.938272", "10.008500"), "SEQnet@pixel4-A3": ("591.208320", "13.876122"),
    "SEQnet@pixel4-A4": ("738.137216", "15.304198"), "SEQnet@vnni-A0": ("163.479488", "7.795422"),
    "SEQnet@vnni-A1": ("358.171776", "11.964826"), "SEQnet@vnni-A2": ("638.338304", "14.516007"),
    "SEQnet@vnni-A3": ("981.538304", "15.930330"), "SEQnet@vnni-A4": ("1383.123584", "23.368885"),
}
# All parameters, then the largest and the smallest net.
SUPERNETS = {
    "spaceevo@pixel4": (48324334, ("2495.647488", "45.769546"), ("112.921328", "6.376797")),
    "spaceevo@pixel4-tiny": (20141144, ("3278.878208", "19.079044"), ("79.481112", "5.501766")),
    "spaceevo@pixel4-medium": (41423720, ("2386.334720", "40.224852"), ("107.669352", "6.045198")),
    "spaceevo@vnni": (53819040, ("5837.859840", "52.160280"), ("163.479488", "7.795422")),
    "spaceevo@vnni-large": (52886212, ("3484.417024", "51.884988"), ("219.890432", "8.135840")),
}


def published_nets():
    """Triples (name, structure, published figures)."""
    for name, figures in SUBNETS.items():
        entry = RESULTS["subnets"][name]
        config = SupernetConfig.from_str(RESULTS["supernets"][entry["supernet"]])
        choice = SubnetChoiceConfig.from_str(entry["subnet"])
        SubnetSpace(config, config.space.resolutions).check(choice)
        yield name, resolve(config, choice), figures
    for name, (_, *both) in SUPERNETS.items():
        config = SupernetConfig.from_str(RESULTS["supernets"][name])
        space = SubnetSpace(config, config.space.resolutions)
        for pick, figures in zip((max, min), both, strict=True):
            yield f"{name} {pick.__name__}", resolve(config, space.extreme(pick)), figures


def count_float32(spec: NetSpec):
    """Counts of a whole net with the float32 sums of the published counters."""
    hw, counts = (spec.resolution, spec.resolution), []
    for _, block in spec.blocks:
        block_counts, hw = count_block(block, hw)
        counts += block_counts
    return published_float32(counts)


@pytest.mark.parametrize(("spec", "figures"), [pytest.param(*rest, id=name) for name, *rest in published_nets()])
def test_published_nets(spec, figures):
    """Exact parameters, and the published MFLOPs digit for digit with its float32 sums, nearly so with integers."""
    macs, params = count_net_flops_and_params(spec)
    assert f"{params:.6f}" == figures[1]
    assert macs == pytest.approx(float(figures[0]), rel=5e-7)
    assert f"{count_float32(spec)[0]:.6f}" == figures[0]


def test_published_float32_parameters():
    """The one parameter count whose published print is known to be rounded (the others are given exactly)."""
    spec = next(spec for name, spec, _ in published_nets() if name == "SEQnet@vnni-A4")
    assert f"{count_float32(spec)[1]:.6f}" == "23.368892"


@pytest.mark.parametrize("name", SUPERNETS)
def test_supernet_parameters(name):
    """All parameters of a supernet, those of unused layers included."""
    with torch.device("meta"):
        supernet = Supernet.build_from_str(RESULTS["supernets"][name])
    assert sum(p.numel() for p in supernet.parameters()) == SUPERNETS[name][0]


def lut_files(shared):
    """Pairs (superspace, path) of all published block tables; their number is fixed so that none goes missing."""
    files = [(path.parent.name, path) for path in sorted(shared("published", "block_lut").glob("*/*.csv"))]
    assert len(files) == 342
    return files


def differing_rows(superspace, path, step):
    """How many of every `step`-th row were counted, and those whose two printed columns differ from ours."""
    stage, block, _ = path.stem.split("_")
    lines, differing = path.read_text().splitlines()[::step], []
    for line in lines:
        encoding, shape, _, *published, _ = line.split(",")
        ours = count_stage(superspace, stage, int(block), encoding, tuple(map(int, shape.split("x"))))
        if [f"{value:.4f}" for value in ours] != published:
            differing.append((path.stem, line, ours))
    return len(lines), differing


def test_block_tables_sample(shared):
    """Every 50th row of every file: all stages, block types, windows and resolutions occur."""
    counted = 0
    for superspace, path in lut_files(shared):
        count, differing = differing_rows(superspace, path, 50)
        assert not differing
        counted += count
    assert counted == 342 * 20


@pytest.mark.slow
def test_block_tables_all(shared):
    """Every published row."""
    counted = 0
    for superspace, path in lut_files(shared):
        count, differing = differing_rows(superspace, path, 1)
        assert not differing
        counted += count
    assert counted == 342_000


BLOCKS = [
    BlockArgs("Conv", 3, 16, 3, None, 2),
    BlockArgs("FeatureMix", 24, 40),
    BlockArgs("Logits", 24, 10),
    BlockArgs("MobileNetV1", 16, 24, 5, None, 2),
    BlockArgs("MobileNetV1Dual", 16, 24, 5, None, 2),
    BlockArgs("MobileNetV2", 16, 16, 3, 6, 1, "relu6"),
    BlockArgs("MobileNetV3Res", 24, 32, 7, 3, 2, "hswish"),
    BlockArgs("MobileNetV2Res", 16, 24, 3, 1, 1, "relu6"),
    BlockArgs("MobileNetV3K3Res", 16, 24, 7, 3, 2, "swish"),
    BlockArgs("MobileNetV2K3Res", 16, 16, 5, 4, 1, "relu6"),
    BlockArgs("ResNet", 24, 24, 7, 1.5, 1),
    BlockArgs("ResNetSE", 24, 40, 3, 0.5, 2),
    BlockArgs("FusedMBConvSERes", 16, 16, 3, 1, 2, "swish"),
    BlockArgs("FusedMBConvRes", 16, 16, 5, 3, 1, "swish"),
]


def count_by_hooks(module, x):
    """Multiply-accumulates of every convolution and linear layer that runs on `x`, and the output."""
    macs = []

    def hook(layer, args, out):
        per_output = layer.weight[0].numel()
        macs.append(per_output * out[0].numel())

    handles = [m.register_forward_hook(hook) for m in module.modules()
               if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    with torch.no_grad():
        out = module(x)
    for handle in handles:
        handle.remove()
    return sum(macs), out


@pytest.mark.parametrize("hw", [(13, 10), (8, 8), (1, 3)])
@pytest.mark.parametrize("args", BLOCKS, ids=lambda args: args.kind)
def test_block_against_hooks(args, hw):
    """Sums of a block and its output size, on odd and unequal sides too."""
    block = Block(build_block(args), elastic=False).eval()
    if args.kind == "Logits":
        hw = (1, 1)
    macs, out = count_by_hooks(block, torch.randn(2, args.cin, *hw))
    counts, out_hw = count_block(block.spec, hw)
    assert sum(c.macs for c in counts) == macs
    assert sum(sum(c.parameters) for c in counts) == sum(p.numel() for p in block.parameters())
    assert args.kind == "Logits" or out.shape[2:] == out_hw


@pytest.mark.parametrize("encoding", ["onnxw_tiny-054321-000000", "mobile_v1_res-012345-000000"])
def test_net_against_hooks(encoding):
    """A whole net at an odd size given by the caller, and at its own resolution."""
    config = SupernetConfig.from_str(encoding)
    spec = resolve(config, SubnetSpace(config, (32,)).extreme(min), num_classes=7)
    for size in (32, 45):
        net = QNetwork(replace(spec, resolution=size)).eval()
        macs, _ = count_by_hooks(net, torch.randn(1, 3, size, size))
        expected = (macs / 1e6, sum(p.numel() for p in net.parameters()) / 1e6)
        assert count_net_flops_and_params(spec, (1, 3, size, size)) == expected
        assert count_net_flops_and_params(net) == expected


def test_make_divisible(shared_json):
    """Rounding to 8 against the recorded values."""
    recorded = shared_json("facts", "golden_units.json")["make_divisible"]
    assert len(recorded) > 10
    assert {value: make_divisible(float(value)) for value in recorded} == recorded


@pytest.mark.parametrize(("arguments", "named"), [
    (("nowhere", "stage1", 0, "3#24#None_3#24#None"), ("nowhere", "mobilew")),
    (("mobilew", "stage9", 0, "3#24#None_3#24#None"), ("stage9", "stage1")),
    (("mobilew", "stage1", 7, "3#24#None_3#24#None"), ("7", "0 to 6")),
    (("mobilew", "stage1", 0, "3#24#None_3#25#None"), ("25", "24, 32, 40")),
    (("mobilew", "stage1", 1, "3#24#3_9#24#3"), ("9", "3, 5, 7")),
    (("mobilew", "stage1", 1, "3#24#4_3#24#3"), ("4", "3, 6, 8")),
    (("mobilew", "stage1", 1, "3#24#3"), ("1 blocks", "2, 3, 4")),
    (("mobilew", "stage1", 1, "3#24#3_3#24"), ("'3#24'", "kernel#width#expand")),
])
def test_bad_row(arguments, named):
    """A row outside the space is refused with the value and the allowed ones."""
    with pytest.raises(UserError) as error:
        count_stage(*arguments, (1, 16, 80, 80))
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in named)
