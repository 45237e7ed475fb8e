"""Rank correlation of training-free scores with known accuracies of networks."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from modules.modeling.net_spec import NetSpec, resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.reference import read_network
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.csv_files import read_records
from modules.utils.errors import UserError
from modules.utils.results import append_row
from modules.zero_shot.aggregate import rank_aggregate, rank_correlations
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.scoring import scores, seed_of

BASELINES = ("Flops", "Params")  # always among the scores


def read_accuracies(path: str | Path, space: SupernetConfig | None = None,
                    classes: int = 1000) -> list[tuple[NetSpec, float]]:
    """Networks and their accuracies (percent) from a csv file: column `network` (a reference) or `enc` (a subnet of
    `space`, as search_subnet.py and eval_supernet.py write), and `acc1`.

    Raises:
        UserError: another file, an unknown network, an accuracy that is no percentage.
    """
    found = []
    for place, row in read_records(path, "--accuracies", ("acc1",)):
        try:
            accuracy = float(row["acc1"])
        except ValueError:
            accuracy = -1.0
        if not 0 <= accuracy <= 100:
            raise UserError(f"{place}: acc1 {row['acc1']!r}; expected percent")
        if row.get("network"):
            network = read_network(row["network"])
            found.append((resolve(network.space, network.subnet, classes), accuracy))
        elif row.get("enc") and space:
            choice = SubnetChoiceConfig.from_str(row["enc"])
            SubnetSpace(space, (choice.resolution,)).check(choice)
            found.append((resolve(space, choice, classes), accuracy))
        else:
            raise UserError(f"{place}: no network; expected a column network, or enc with --superspace and "
                            "--supernet_choice")
    if len(found) < 3:
        raise UserError(f"--accuracies {str(path)!r} has {len(found)} networks; allowed: 3 or more")
    return found


def evaluate_subnets(evaluator, count: int, seed: int, path: Path) -> Iterator[float]:
    """Evaluate `count` random subnets of the evaluator's supernet, and write them to `path`; yields accuracies. Subnets
    in the file are not evaluated again."""
    known = {row["network"]: float(row["acc1"]) for _, row in read_records(path, "accuracies", ("network", "acc1"))
             } if path.exists() else {}
    rng = np.random.default_rng(seed)
    for _ in range(count):
        choice = evaluator.model.subnets.sample(rng)
        name = f"{evaluator.space}-{choice}"
        if name not in known:
            known[name] = evaluator.accuracy(choice).top1
            append_row(path, {"network": name, "acc1": f"{known[name]:.4f}"})
        yield known[name]


def rank_by_accuracy(networks: Sequence[tuple[NetSpec, float]], proxies: Sequence[str], batch: int, seed: int,
                     aggregate: str = "") -> dict[str, tuple[float, float]]:
    """Kendall's tau-b and Spearman's rho of each score with the accuracies, `BASELINES` first; `aggregate` names a
    further score, the rank aggregate of `proxies`."""
    accuracy = np.array([value for _, value in networks])
    values = {proxy: np.array([scores(plain_view(spec), proxy, batch, 1, seed_of(str(i), seed))[0]
                               for i, (spec, _) in enumerate(networks)])
              for proxy in dict.fromkeys((*BASELINES, *proxies))}
    if aggregate:
        values[aggregate] = rank_aggregate(np.stack([values[proxy] for proxy in dict.fromkeys(proxies)], 1))
    return {proxy: rank_correlations(value, accuracy) for proxy, value in values.items()}
