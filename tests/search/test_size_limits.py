"""Limits beside latency: what a network takes is counted right, and each search keeps the limits."""
import csv
import json

import numpy as np
import pytest

from modules.block_kd.lut.archive import read_table
from modules.block_kd.lut.tables import load_tables, row_numbers, table_file
from modules.block_kd.score.quality import Target
from modules.block_kd.score.sample import SampleEstimator
from modules.block_kd.score.sizes import TableSizes
from modules.block_kd.space_search.scorer import Scoring, make_scorer
from modules.latency.profile.models import net_model
from modules.modeling.net_spec import resolve
from modules.modeling.spec import BlockArgs, build_block
from modules.search.footprint import Footprint, blocks_footprint, net_footprint
from modules.search.generations import GenerationSizes
from modules.search.limits import SizeLimits
from modules.search.subnet.proposals import Proposer
from modules.search.subnet.report import folder_name
from modules.search.subnet.settings import SearchSettings
from modules.search_space.config import SupernetConfig
from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zen_space import SPACES
from modules.search_space.reference import read_network
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace
from modules.utils.csv_files import parse_rows
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.zero_shot.search import Limits, ZenSearch

LUT = REPOSITORY / "data" / "block_lut"
SPACE = SupernetConfig.from_choice("onnxw_tiny", "053412-000000")
SUBNETS = SubnetSpace(SPACE, (32, 48, 64))


def network(name):
    net = read_network(name)
    return resolve(net.space, net.subnet, 10)


def test_footprint_of_a_block_by_hand():
    """MobileNetV3Res on 16 channels of 8 x 8 pixels to 24 of 4 x 4: hidden 64, squeezed to 16, a projected shortcut."""
    block = build_block(BlockArgs("MobileNetV3Res", 16, 24, 5, 4, 2, "hswish"))
    found = blocks_footprint((block,), (8, 8))
    sizes = {"expand": 16 * 64, "depthwise": 64 * 25, "reduce": 64 * 16, "widen": 16 * 64, "project": 64 * 24,
             "shortcut": 16 * 24}
    macs = sizes["expand"] * 64 + sizes["depthwise"] * 16 + 2 * 64 * 16 + (sizes["project"] + sizes["shortcut"]) * 16
    assert found.mflops == pytest.approx(macs / 1e6, rel=1e-12)
    channels = 64 + 64 + 16 + 64 + 24 + 24
    assert found.weight_mb == pytest.approx((sum(sizes.values()) + 4 * channels) / 1e6, rel=1e-12)
    # The depthwise convolution reads what the expansion wrote, while the input waits for the shortcut.
    assert found.activation_mb == pytest.approx((16 * 64 + 64 * 64 + 64 * 16) / 1e6, rel=1e-12)
    assert found.memory_mb == pytest.approx(found.weight_mb + found.activation_mb)
    parts = found + Footprint(1, 2, 3, 4, found.activation_mb / 2)
    assert (parts.mflops, parts.weight_mb, parts.activation_mb) == (
        found.mflops + 1, found.weight_mb + 4, found.activation_mb)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2:0.5", "mobilenet_v3_large", "onnxw_tiny"])
def test_predicted_size_is_that_of_the_file(name):
    spec = resolve(SPACE, SUBNETS.sample(np.random.default_rng(0)), 10) if name == SPACE.superspace else network(name)
    assert net_footprint(spec).file_mb == pytest.approx(len(net_model("onnxruntime", spec)) / 1e6, rel=0.01)


@pytest.mark.parametrize("name", ["mobilenet_v2:0.5", "efficientnet_lite0"])
def test_activations_are_those_of_the_tflite_file(name):
    """Their peak, from the operators and tensors of the int8 file, in order. Copies with a border, which only TFLite
    makes, stand for what they copy."""
    from modules.runtime.litert import litert_schema

    schema, spec = litert_schema(), network(name)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(net_model("litert", spec), 0))
    graph = model.subgraphs[0]
    codes = [c.builtinCode for c in model.operatorCodes]
    same, steps = {}, []
    for op in graph.operators:
        read = [same.get(i, i) for i in op.inputs]
        if codes[op.opcodeIndex] in (schema.BuiltinOperator.PAD, schema.BuiltinOperator.QUANTIZE):
            same[op.outputs[0]] = read[0]
        else:
            steps.append((read, op.outputs[0]))
    size = {i: int(np.prod(t.shape)) for i, t in enumerate(graph.tensors) if t.buffer == 0}
    last = {i: n for n, (read, _) in enumerate(steps) for i in read}
    first = {written: n for n, (_, written) in enumerate(steps)}
    peak = max(sum(size[i] for i in last if i in size and first.get(i, 0) <= n <= last[i]) + size[steps[n][1]] * (
        steps[n][1] not in last) for n in range(len(steps)))
    assert net_footprint(spec).activation_mb == pytest.approx(peak / 1e6, rel=1e-9)


@pytest.mark.parametrize("measure", ["mflops", "params", "file_mb", "memory_mb"])
def test_a_subnet_search_without_latency_keeps_each_limit(measure):
    drawn = [net_footprint(resolve(SPACE, SUBNETS.sample(np.random.default_rng(i)), 10)) for i in range(60)]
    limit = float(np.median([getattr(f, measure) for f in drawn]))
    settings = SearchSettings(size_limits=SizeLimits(**{measure: limit}), sizes=GenerationSizes(12))
    proposer = Proposer(SUBNETS, {"ruler": Ruler()}, 10, settings)
    found = proposer.propose(0, {})
    assert len(found) == 12
    again = [net_footprint(resolve(SPACE, p.choice, 10)) for p in found]
    assert all(getattr(f, measure) <= limit for f in again)
    assert [(p.mflops, p.params, p.file_mb, p.memory_mb) for p in found] == [
        (f.mflops, f.params, f.file_mb, f.memory_mb) for f in again]


class Ruler:
    """A platform of a millisecond per million multiply-accumulates."""

    def predict_subnet(self, spec):
        return net_footprint(spec).mflops


def test_limits_that_nothing_keeps_are_refused_in_one_line():
    with pytest.raises(UserError, match="no limit; give --latency_constraint"):
        SearchSettings()
    with pytest.raises(UserError, match=r"--max_file_mb -1\.0; allowed: above 0 MB"):
        SizeLimits(file_mb=-1.0)
    limits = SizeLimits(params=0.01, memory_mb=5.0)
    settings = SearchSettings(limits=(100.0,), delta=100.0, size_limits=limits, sizes=GenerationSizes(2))
    least = net_footprint(resolve(SPACE, SUBNETS.extreme(min), 10)).params
    with pytest.raises(UserError, match=rf"--max_params 0\.01 --max_memory_mb 5: none .* has params {least:.4g}, mem"):
        Proposer(SUBNETS, {"ruler": Ruler()}, 10, settings).propose(0, {})
    alone = SearchSettings(method="random", size_limits=SizeLimits(params=least), sizes=GenerationSizes(2))
    (found,) = Proposer(SUBNETS, {"ruler": Ruler()}, 10, alone).propose(0, {})  # no random draw meets it
    assert found.choice == SUBNETS.extreme(min)
    with pytest.raises(UserError, match="--estimator exact with --max_params 3: "):
        Scoring("onnxw", "onnx_lut", str(LUT), (10.0,), estimator="exact", sizes=SizeLimits(params=3.0))
    tables = load_tables(LUT, "onnxw_tiny", (48, 64), [SPACE])
    with pytest.raises(UserError, match=r"--max_mflops 0\.1: below every subnet; .* mflops \d"):
        TableSizes(tables, SizeLimits(mflops=0.1))


def test_rows_have_the_published_operations_and_parameters():
    """Those that the published program wrote beside each row."""
    config = SupernetConfig.from_choice("onnxw", "151122-023231")
    tables = load_tables(LUT, "onnxw", (160, 192, 224), [config])
    sizes = TableSizes(tables, SizeLimits(mflops=1e4, params=1e3))
    space = get_superspace("onnxw")
    for number, stage in enumerate(space.searched[:2]):
        choice = config.blocks[number], config.windows[number]
        path = table_file(LUT / "onnxw", space, stage, choice)
        known = {fields[0] + fields[1].split("x")[1] + fields[1].split("x")[2]: row_numbers(fields)
                 for _, fields in parse_rows(read_table(path), str(path))}
        for r, resolution in enumerate(tables.resolutions):
            rows, found = tables.stages[number][choice][r], sizes.of(number, choice)[r]
            pixels = resolution // (2 * 2**number)
            theirs = [known[f"{e}{cin}{pixels}"] for e, cin in zip(rows.encodings, rows.input_width, strict=True)]
            np.testing.assert_allclose(found.mflops, [t[1] for t in theirs], atol=6e-5, rtol=1e-5)
            np.testing.assert_allclose(found.params, [t[2] for t in theirs], atol=6e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def estimators():
    """Limits, sizes, and the estimates without and with them, by coupling; the draws are the same."""
    tables, others, found = load_tables(LUT, "onnxw_tiny", (48, 64), [SPACE]), (np.zeros(1), np.zeros(1)), {}
    sizes = TableSizes(tables, SizeLimits(mflops=12.0, memory_mb=1.2), num_classes=10)
    for coupling in ("independent", "chained"):
        found[coupling] = [SampleEstimator(tables, others, Target(np.inf), coupling, seed=3, sizes=s)
                           for s in (None, sizes)]
    return sizes, found


@pytest.mark.parametrize("coupling", ["independent", "chained"])
def test_a_score_counts_subnets_within_the_limits(estimators, coupling):
    free, bound = estimators[1][coupling]
    every, kept = free.draw(SPACE)[0], bound.draw(SPACE)[0]
    assert 0 < len(kept) < len(every)
    assert free(SPACE).feasible == 1
    assert bound(SPACE).feasible == pytest.approx(len(kept) / len(every), rel=1e-6)
    assert bound(SPACE).top_loss == pytest.approx(np.sort(kept)[:50].mean(), rel=1e-5)


def test_drawn_subnets_keep_the_limits_by_their_rows(estimators):
    sizes, found = estimators
    free, bound = found["independent"]
    losses, _, resolutions = free.draw(SPACE)
    columns, within = free._columns(SPACE)[0], np.zeros(len(losses), bool)
    for r, resolution in enumerate(sizes.tables.resolutions):
        ours, parts = resolutions == resolution, [sizes.others[r]]
        for stage, choice in enumerate(zip(SPACE.blocks, SPACE.windows, strict=True)):
            rows = sizes.tables.stages[stage][choice][r]
            known = rows.loss.astype(np.float32)
            drawn_rows = set(zip(known.tolist(), rows.encodings, rows.input_width.tolist(), strict=True))
            assert len(drawn_rows) == len(set(known.tolist()))  # a loss tells its row; some rows are there twice
            row, size = np.searchsorted(known, columns[stage].loss[ours]), sizes.of(stage, choice)[r]
            parts.append(Footprint(size.mflops[row], 0, 0, size.weight_mb[row], size.activation_mb[row]))
        activations = np.max(np.broadcast_arrays(*(part.activation_mb for part in parts)), axis=0)
        within[ours] = (sum(p.mflops for p in parts) <= 12) & (sum(p.weight_mb for p in parts) + activations <= 1.2)
    assert 0 < within.sum() < len(within)
    np.testing.assert_array_equal(bound.draw(SPACE)[0], losses[within])


def test_rows_that_meet_add_up_to_their_network(tmp_path):
    """The smallest subnet of a space, as one row for each stage."""
    space = get_superspace("onnxw_tiny")
    config = SupernetConfig("onnxw_tiny", (0,) * 6, (0,) * 6)
    smallest = SubnetSpace(config, (64,)).extreme(min)
    stages = dict(zip([s.name for s in space.elastic], smallest.stages, strict=True))
    size, folder = 64, tmp_path / "onnxw_tiny"
    folder.mkdir()
    for stage in space.stages:
        if stage in space.searched:
            cin = stages[space.previous(stage.name).name][-1].width
            blocks = "_".join(f"{b.kernel}#{b.width}#{b.expand}" for b in stages[stage.name])
            (folder / f"{stage.name}_0_0.csv").write_text(f"{blocks},1x{cin}x{size}x{size},0.1,1,1,1\n")
        size = -(-size // stage.stride)
    (folder / "lut.json").write_text(json.dumps({"settings": {"resolutions": [64]}}))
    limits = SizeLimits(*[1e6] * 4)
    sizes = TableSizes(load_tables(tmp_path, "onnxw_tiny", (64,), [config]), limits, num_classes=7)
    whole = sum((sizes.of(stage, (0, 0))[0] for stage in range(6)), sizes.others[0])
    expected = net_footprint(resolve(config, smallest, 7))
    for name in ("mflops", "params", "file_mb", "memory_mb"):
        assert getattr(whole, name)[0] == pytest.approx(getattr(expected, name), rel=1e-6)


def test_the_zero_shot_search_keeps_the_limits():
    start = Structure.parse(SPACES["cifar"].start)
    open_search, bound = (
        ZenSearch(SPACES["cifar"], start, Limits(18, sizes=sizes), proxy="Params", batch=2, classes=10, resolution=32,
                  population_size=8, seed=1) for sizes in (SizeLimits(), SizeLimits(file_mb=0.2)))
    rng = np.random.default_rng(0)
    structures, current = [], start
    for _ in range(30):
        current = SPACES["cifar"].mutate(current, rng)
        structures.append(current)
    from modules.zero_shot.network import structure_net

    for structure in structures:
        small = net_footprint(structure_net(structure, 32, 10)).file_mb <= 0.2
        assert bound.accepts(structure) == (open_search.accepts(structure) and small)
    assert 0 < sum(map(bound.accepts, structures)) < sum(map(open_search.accepts, structures))
    assert str(bound.limits) == "at most 18 layers, --max_file_mb 0.2"


def test_a_search_of_spaces_without_latency(tmp_path):
    from search_block_kd import main

    main(["--superspace", "onnxw_tiny", "--max_params", "0.8", "--num_classes", "10", "--output_dir", str(tmp_path),
          "--cycles", "24", "--population_size", "12", "--parent_size", "4"])
    folder = tmp_path / "onnxw_tiny" / "params0.8_t0.1_a0.01"
    with open(folder / "spaces.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    shares = [float(row["feasible_inf"]) for row in rows]
    assert 0 < min(shares) < 0.5 < max(shares) <= 1
    assert json.loads((folder / "spaces.csv.json").read_text())["sizes"] == {"params": 0.8}
    best = max(rows, key=lambda row: float(row["score"]))["choice"]
    assert (folder / f"{best}_distribution.png").is_file()
    again = make_scorer(Scoring("onnxw_tiny", "onnxruntime_int8", str(LUT), resolutions=(48, 64), num_classes=10,
                                sizes=SizeLimits(params=0.8)))(SupernetConfig.from_choice("onnxw_tiny", best))
    assert again.score == pytest.approx(float(max(rows, key=lambda row: float(row["score"]))["score"]), rel=1e-5)


def test_the_folder_of_a_search_of_subnets_says_its_limits():
    sizes = SizeLimits(params=1.2, memory_mb=2.0)
    assert folder_name(SearchSettings(size_limits=sizes), ["onnx_lut"], False) == "params1.2_memory_mb2"
    both = SearchSettings(limits=(1.0, 2.5), size_limits=sizes, survival="pareto", predictor="lightgbm")
    assert folder_name(both, ["onnx_lut"], False) == "1+2.5ms_params1.2_memory_mb2_pareto_lightgbm"
    assert folder_name(SearchSettings(limits=(1.0,), method="random"), ["onnx_lut"], True) == "1ms_testset_random"
