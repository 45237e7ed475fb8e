"""Rank correlation of training-free scores with known accuracies of networks."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.modeling.net_spec import NetSpec, resolve
from modules.search.subnet.fitness import fitness_identity
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.reference import read_network
from modules.search_space.subnet_space import SubnetSpace
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.csv_files import read_records
from modules.utils.errors import UserError
from modules.utils.files import write_manifest
from modules.utils.json_files import read_json
from modules.utils.results import append_row
from modules.utils.runs import differences
from modules.zero_shot.aggregate import rank_aggregate, rank_correlations
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.scoring import scores, seed_of

BASELINES = ("Flops", "Params")  # always among the scores


def read_accuracies(path: str | Path, space: SupernetConfig | None = None,
                    classes: int = 1000) -> list[tuple[NetSpec, float]]:
    """Networks and their accuracies (percent) from a csv file: column `network` (a reference) or `enc` (a subnet of
    `space`, as search_subnet.py and eval_supernet.py write), and `acc1`. `classes`: those of the networks.

    Raises:
        UserError: another file, an unknown network, a subnet of another supernet, accuracies of two precisions, an
            accuracy that is no percentage.
    """
    found, modes = [], set()
    for place, row in read_records(path, "--accuracies", ("acc1",)):
        accuracy = _accuracy(place, row)
        if space and row.get("supernet", str(space)) != str(space):
            raise UserError(f"{place}: a subnet of {row['supernet']}, not of {space}; expected the rows of one "
                            "supernet")
        modes.add(row.get("quant_mode", ""))
        if len(modes) > 1:
            raise UserError(f"{place}: accuracies of fp32 and of int8 (quant_mode); expected those of one precision")
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


def evaluate_subnets(evaluator: SubnetEvaluator, count: int, path: Path) -> list[tuple[NetSpec, float]]:
    """Evaluate `count` random subnets of the evaluator's supernet, drawn with its seed; returns each once, with its
    accuracy (percent). The file `path` keeps them, and its manifest names checkpoint and images; subnets in the file
    are not evaluated again.

    Raises:
        UserError: the file is of another checkpoint, mode, image set, calibration or seed, or is damaged.
    """
    known = _known_accuracies(path, fitness_identity(evaluator) | {"seed": evaluator.seed,
                                                                   "int8": evaluator.quant_mode})
    rng, found = np.random.default_rng(evaluator.seed), {}
    for _ in range(count):
        choice = evaluator.model.subnets.sample(rng)
        name = f"{evaluator.space}-{choice}"
        if name not in known:
            known[name] = round(evaluator.accuracy(choice).top1, 4)
            append_row(path, {"network": name, "acc1": known[name]})
        found[name] = resolve(evaluator.space, choice, evaluator.model.num_classes), known[name]
    return list(found.values())


def _known_accuracies(path: Path, identity: dict) -> dict[str, float]:
    """The accuracies in the file `path` by network; its manifest is written where there is no file yet."""
    if not path.exists():
        write_manifest(path, **identity)
        return {}
    before = read_json(f"{path}.json", "manifest", dict.fromkeys(identity.keys() - {"int8"}, object))  # older lack it
    for name, old, new in differences(before, identity):
        raise UserError(f"{name} was {old!r} when {str(path)!r} was written and is {new!r} now; move the file away, or "
                        "give another --output")
    rows = read_records(path, "accuracies", ("network", "acc1"))
    return {row["network"]: _accuracy(place, row) for place, row in rows}


def _accuracy(place: str, row: dict[str, str]) -> float:
    try:
        accuracy = float(row["acc1"])
    except ValueError:
        accuracy = -1.0
    if not 0 <= accuracy <= 100:
        raise UserError(f"{place}: acc1 {row['acc1']!r}; expected percent")
    return accuracy


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
