"""How structures are bred and scored: random starts, several children at once, worker processes, spaces from files,
the flags of the published search."""
import numpy as np
import pytest

from modules.latency import get_platform
from modules.latency.profile.design import Net, choose_blocks
from modules.latency.profile.zen_nets import MOST_MACS, draw_nets_of, zen_space
from modules.modeling.complexity import count_net_flops_and_params
from modules.search.evolution import History
from modules.search.survival import SurvivalEvolution
from modules.search_space.networks.structure import Structure
from modules.search_space.networks.zen_space import PUBLISHED_BLOCKS, SPACES, read_space
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.runs import STATE_FILE, Run
from modules.zero_shot.network import structure_net
from modules.zero_shot.scoring import scores
from modules.zero_shot.search import FILES, LOGS, Limits, ZenSearch

SMALL = "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,8,2,8,1)SuperConvK1BNRELU(8,16,1,1)"


def a_search(proxy="Params", size=2e5, **more) -> ZenSearch:
    return ZenSearch(SPACES["cifar"], Structure.parse(SPACES["cifar"].start), Limits(18, model_size=size), proxy=proxy,
                     batch=2, classes=10, resolution=16, population_size=16, seed=4, **more)


def entries(folder, iterations, **more) -> list:
    search = a_search(**more)
    with Run(folder / STATE_FILE, logs=LOGS, files=FILES, resume=False, overwrite=False, option="--save_dir") as run:
        search.run(run, iterations)
    return [(str(e.individual), e.fitness, str(e.parent.individual) if e.parent else "")
            for e in search.history.entries]


def test_the_number_of_workers_does_not_change_a_search(tmp_path):
    alone, shared = (entries(tmp_path / str(n), 60, proxy="NASWOT", children=5, workers=n) for n in (0, 2))
    assert len(alone) > 10
    assert alone == shared
    with pytest.raises(UserError, match="--workers 2 with --children 1"):
        a_search(workers=2)


def test_children_of_one_population_do_not_see_each_other():
    """With a population of one the parent of a whole round is the best of all before it."""
    history = History(lambda x: x, float)
    evolution = SurvivalEvolution(history, 0, lambda x, rng: x + int(rng.integers(1, 10**6)), lambda x: True, 1,
                                  np.random.default_rng(0), seed_size=1, children=4)
    for _ in evolution.run(41):
        pass
    assert evolution.iteration == len(history) == 41
    assert [entry.parent for entry in history.entries[:4]] == [None] * 4
    for start in range(4, 41, 4):
        best = max(history.entries[:start], key=lambda entry: entry.individual)
        assert all(entry.parent is best for entry in history.entries[start:start + 4])


@pytest.mark.parametrize("name", SPACES)
def test_random_starts_have_the_strides_of_the_space(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    start = Structure.parse(space.start)
    drawn = [space.draw(rng) for _ in range(100)]
    assert len(set(drawn)) == 100
    for structure in drawn:
        assert Structure.parse(str(structure)) == structure == structure.chained()
        assert np.prod([b.stride for b in structure.blocks]) == np.prod([b.stride for b in start.blocks])
        assert structure.blocks[0] == start.blocks[0]
        assert {b.name for b in structure.blocks[1:-1]} <= set(space.blocks)
        assert all(b.cout % 8 == 0 and 8 <= b.cout <= 120 for b in structure.blocks[1:])
    assert {len(s.blocks) for s in drawn} == {6, 7, 8, 9, 10}


def test_the_first_structures_of_a_random_start_are_drawn(tmp_path):
    drawn = entries(tmp_path / "drawn", 300, random_start=True, size=2e6)
    assert sum(not parent for _, _, parent in drawn) == 10
    first = Structure.parse(drawn[0][0])
    assert any(first == SPACES["cifar"].draw(rng) for rng in [np.random.default_rng(4)] for _ in range(300))


def test_a_space_of_the_user_s(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"blocks: [SuperResIDWE3K9, SuperResK5K5]\nstart: {SMALL}\nresolution: 32\nclasses: 7\n")
    space, rng = read_space(str(path)), np.random.default_rng(0)
    assert (space.name, space.classes, space.max_layers, space.resolution) == ("mine", 7, 18, 32)
    child = Structure.parse(space.start)
    for _ in range(50):
        child = space.mutate(child, rng)
    assert {b.name for b in child.blocks if b.residual} <= {"SuperResIDWE3K9", "SuperResK5K5"}
    wide = Structure.parse("SuperConvK3BNRELU(3,8,1,1)SuperResIDWE3K9(8,8,1,8,1)")
    rows = wide.rows()
    assert (rows[1].kernel, rows[1].expand) == (9, 3)
    for content, words in ((f"start: {SMALL}\nresolution: 32\n", "has no blocks"),
                           (f"blocks: [SuperResK4K4]\nstart: {SMALL}\nresolution: 32\n", "SuperResK4K4"),
                           (f"blocks: [SuperResK5K5]\nstart: {SMALL}\nresolution: 32\nwidth: 3\n", "width")):
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            read_space(str(path))
    with pytest.raises(UserError, match="allowed: cifar, flops, latency, or a yaml file"):
        read_space("none")


def test_the_flags_of_the_published_search(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "zen_nas"))
    import evolution_search

    (tmp_path / "init_plainnet.txt").write_text(SMALL + "\n")
    published = ["--gpu", "0", "--zero_shot_score", "Zen", "--search_space", "SearchSpace/search_space_XXBL.py",
                 "--max_layers", "18", "--batch_size", "4", "--input_image_size", "16", "--num_classes", "100",
                 "--plainnet_struct_txt", str(tmp_path / "init_plainnet.txt"), "--budget_model_size", "1e5",
                 "--evolution_max_iter", "30", "--population_size", "8", "--fix_initialize", "--gamma", "0.02"]
    evolution_search.main([*published, "--search_space_list", "PlainNet/SuperResK1KXK1.py", "--save_dir",
                           str(tmp_path / "run")])
    best = Structure.parse((tmp_path / "run" / "best_structure.txt").read_text())
    lines = (tmp_path / "run" / "scores.csv").read_text().splitlines()
    assert len(lines) > 5
    names = {b.name for line in lines[1:] for b in Structure.parse(line.split(",", 5)[5].strip('"')).blocks}
    assert names & set(PUBLISHED_BLOCKS["SuperResK1KXK1"])
    assert not names & (set(PUBLISHED_BLOCKS["SuperResIDWEXKX"]) | {"SuperResK5K5"})
    assert capsys.readouterr().out.endswith(f"{best}\n")
    with pytest.raises(UserError, match="--fix_initialize without"):
        evolution_search.main(["--fix_initialize", "--save_dir", str(tmp_path / "none")])


def test_the_published_search_has_the_limits_of_the_other(tmp_path, monkeypatch, capsys):
    """The score prefers large structures; a tenth of a millisecond is 1e-4 of the published seconds."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "zen_nas"))
    import evolution_search
    import search

    common = ["--zero_shot_score", "Params", "--max_mflops", "4", "--max_file_mb", "0.15", "--platform", "onnx_lut",
              "--input_image_size", "16", "--num_classes", "10", "--evolution_max_iter", "60", "--population_size", "8",
              "--max_evaluations", "20"]
    found = {}
    for program, ms in ((search, 1), (evolution_search, 1e-3)):
        folder = tmp_path / program.__name__
        flags = ["--space", "cifar"] if program is search else ["--search_space", "cifar", "--fix_initialize",
                                                                "--plainnet_struct", SPACES["cifar"].start]
        program.main([*common, *flags, "--budget_latency", str(50 * ms), "--save_dir", str(folder)])
        assert "50 ms on onnx_lut, --max_mflops 4 --max_file_mb 0.15" in capsys.readouterr().out
        found[program] = (folder / "scores.csv").read_text()
        for line in found[program].splitlines()[1:]:
            structure = Structure.parse(line.split(",", 5)[5].strip('"'))
            spec = structure_net(structure, 16, 10)
            assert count_net_flops_and_params(spec)[0] <= 4
            assert get_platform("onnx_lut").predict_subnets([spec]).ms[0] <= 50
    assert found[search] == found[evolution_search]


def test_the_perturbation_of_the_zen_score_can_be_told():
    spec = structure_net(Structure.parse(SMALL), 16, 10, shortcuts=False)
    plain, same, larger = (scores(spec, name, 4, 1, 3)[0] for name in ("Zen", "Zen:0.01", "Zen:0.02"))
    assert plain == same
    # the change of the features is nearly linear in a small perturbation
    assert larger - plain == pytest.approx(np.log(2), abs=0.1)


@pytest.mark.parametrize("name", ["zen_cifar", "zen_flops"])
def test_a_profile_can_draw_zen_structures(name):
    space, rng = zen_space(name), np.random.default_rng(0)
    nets = draw_nets_of(name, (space.resolution,), 12, rng)
    assert len(set(nets)) == 12
    assert all(Net.from_str(str(net)) == net for net in nets)
    assert all(count_net_flops_and_params(net.spec)[0] <= MOST_MACS for net in nets)
    blocks = [block for part in choose_blocks(nets, 30, rng) for block in part]
    assert len(blocks) == 30
    assert any(args.kind.startswith("Zen") and args.kind.endswith("Proj") for args, _ in blocks)
    with pytest.raises(UserError, match="zen_none"):
        draw_nets_of("zen_none", (32,), 1, rng)
