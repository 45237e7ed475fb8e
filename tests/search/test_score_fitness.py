"""The subnet search with training-free scores: as its fitness, and as a filter before evaluation."""
import csv
import shlex

import numpy as np
import pytest
from test_subnet_search import SIZES, SPACE, SUBNETS, Ruler, latency_of

import search_subnet
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.search.evolution import History
from modules.search.subnet import figure
from modules.search.subnet.proposals import Proposer
from modules.search.subnet.settings import SearchSettings
from modules.search_space.config import SubnetChoiceConfig
from modules.utils.errors import UserError
from modules.utils.figures import save_figure
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.subnet_scores import SubnetScores

SEARCH = ["--superspace", "onnxw_tiny", "--supernet_choice", "053412-000000", "--platform", "onnx_lut",
          "--latency_constraint", "3", "--latency_delta", "3", "--population_size", "8", "--mutation_size", "4",
          "--crossover_size", "4", "--max_time_budget", "2", "--manual_seed", "5"]


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_a_score_can_be_the_fitness(tmp_path, capsys, monkeypatch):
    """Without checkpoint and images; parameters are a score whose value is known."""
    drawn = []
    monkeypatch.setattr(figure, "save_figure", lambda plot, path: drawn.append(plot) or save_figure(plot, path))
    search_subnet.main([*SEARCH, "--fitness", "Params", "--output_path", str(tmp_path)])
    assert drawn[0].axes[0].get_ylabel() == "score Params"
    folder = tmp_path / str(SPACE) / "3ms_Params"
    rows = rows_of(folder / "subnets.csv")
    assert len(rows) == 8 * 3
    for row in rows:
        spec = plain_view(resolve(SPACE, SubnetChoiceConfig.from_str(row["enc"])))
        assert float(row["acc1"]) == pytest.approx(count_net_flops_and_params(spec)[1], abs=1e-3)
        assert row["acc1"] == row["acc1_low"] == row["acc1_high"]
        assert float(row["latency"]) <= 3
    best = rows_of(folder / "best.csv")[0]
    assert float(best["acc1"]) == max(float(row["acc1"]) for row in rows)
    told = capsys.readouterr().out.splitlines()
    (export,) = [line for line in told if "--skip_weights" in line]
    assert export.endswith("--skip_weights --num_classes 1000")
    words = shlex.split(told[-1].partition("python ")[2])
    assert words[:5] == ["train_supernet.py", "--superspace", "onnxw_tiny", "--supernet_choice", "053412-000000"]
    assert words[5:9] == ["--subnet_choice", best["enc"], "--resolutions", best["enc"].rpartition("_r")[2]]
    before = (folder / "subnets.csv").read_bytes()
    search_subnet.main([*SEARCH, "--fitness", "Params", "--output_path", str(tmp_path), "--resume"])
    assert (folder / "subnets.csv").read_bytes() == before
    capsys.readouterr()
    search_subnet.main([*SEARCH, "--fitness", "Params", "--output_path", str(tmp_path), "--resume", "--use_testset",
                        "--checkpoint_path", "nowhere"])
    idle = [line.split()[1] for line in capsys.readouterr().err.splitlines() if "has no effect with --fitness" in line]
    assert idle == ["--checkpoint_path", "--use_testset"]
    assert (folder / "subnets.csv").read_bytes() == before  # the same search
    with pytest.raises(UserError, match="Syncflow has no batch norm of maps of one pixel"):
        search_subnet.main([*SEARCH, "--fitness", "Syncflow", "--resolutions", "32", "--output_path", str(tmp_path)])
    with pytest.raises(UserError, match="unknown proxy"):
        search_subnet.main([*SEARCH, "--fitness", "Guess", "--output_path", str(tmp_path)])


def test_scored_subnets_have_the_resolutions_and_classes_asked_for(tmp_path):
    """Ten classes have smaller heads than the 1,000 by default; the best are listed in order."""
    search = [*SEARCH, "--fitness", "Params", "--output_path", str(tmp_path)]
    search_subnet.main([*search, "--resolutions", "32", "--num_classes", "10", "--test_top_num", "4"])
    folder = tmp_path / str(SPACE) / "3ms_Params"
    rows, best = rows_of(folder / "subnets.csv"), rows_of(folder / "best.csv")
    for row in rows:
        choice = SubnetChoiceConfig.from_str(row["enc"])
        assert choice.resolution == 32
        params = count_net_flops_and_params(resolve(SPACE, choice, 10))[1]
        assert float(row["params"]) == pytest.approx(params, abs=1e-3)
    assert [row["acc1"] for row in best] == sorted((row["acc1"] for row in rows), key=float)[:-5:-1]
    with pytest.raises(UserError, match="num_classes"):
        search_subnet.main([*search, "--resolutions", "32", "--resume"])


@pytest.mark.parametrize("keep", [0.5, 0.2])
def test_the_filter_keeps_the_best_share_of_what_is_bred(keep):
    limit = float(np.median([latency_of(SUBNETS.sample(np.random.default_rng(i))) for i in range(50)]))
    settings = SearchSettings((limit,), limit, sizes=SIZES, prefilter="QE", prefilter_keep=keep)
    score = SubnetScores(SPACE, 10, "QE", 2, 0)
    plain = Proposer(SUBNETS, {"ruler": Ruler()}, 10, settings)
    filtered = Proposer(SUBNETS, {"ruler": Ruler()}, 10, settings, score)
    everything, kept = ({p.choice for p in proposer.propose(0, History(None, float))} for proposer in (plain, filtered))
    count = int(np.ceil(keep * len(everything)))
    assert kept == set(sorted(everything, key=score, reverse=True)[:count])
    assert filtered.filtered == len(everything) - count == 16 - count
