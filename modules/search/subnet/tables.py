"""Tables of a subnet search. All follow from the evaluated subnets alone."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from modules.search.subnet.record import Evaluated
from modules.search.subnet.window import Latency, Window
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.evaluation import Accuracy
from modules.utils.csv_files import read_records
from modules.utils.errors import UserError
from modules.utils.files import atomic_write
from modules.utils.results import write_rows


def _row(subnet: Evaluated, devices: Sequence[str]) -> dict:
    p, accuracy = subnet.proposal, subnet.accuracy
    low, high = accuracy.interval
    return {"enc": str(p.choice), "acc1": f"{accuracy.top1:.3f}", "acc1_low": f"{low:.3f}", "acc1_high": f"{high:.3f}",
            "images": accuracy.images, **_latencies(p.latency, devices), "mflops": f"{p.mflops:.4f}",
            "params": f"{p.params:.4f}", "file_mb": f"{p.file_mb:.4f}", "memory_mb": f"{p.memory_mb:.4f}",
            "round": p.round, "limit": str(Window(p.limits, 0))}


def _latencies(latency: Latency, devices: Sequence[str]) -> dict:
    names = _names(devices)
    columns = {name: f"{ms:.5f}" for name, ms in zip(names, latency.ms, strict=True)}
    columns |= {name.replace("latency", "latency_upper", 1): f"{ms:.5f}"
                for name, ms in zip(names, latency.upper, strict=False)}
    return {**columns, "extrapolated": int(latency.extrapolated)}


def _names(devices: Sequence[str]) -> list[str]:
    """Names of the latency columns: `latency` for the first device, `latency_<device>` for the others."""
    return ["latency", *(f"latency_{device}" for device in devices[1:])]


def write_subnets(path: Path, subnets: Iterable[Evaluated], devices: Sequence[str]) -> None:
    """One line per subnet: accuracy with its 95% interval (percent), latency (ms) on each of `devices`, MACs and
    parameters (millions), predicted size of its file and peak memory (MB), and its round and limit."""
    write_rows(path, [_row(subnet, devices) for subnet in subnets])


def write_best(path: Path, best: Mapping[Window, Sequence[Evaluated]], tests: Mapping[SubnetChoiceConfig, Accuracy],
               measured: Mapping[SubnetChoiceConfig, Sequence[float]], devices: Sequence[str]) -> None:
    """The best subnets of each window, best first, with the test accuracy of tested ones.

    `latency` (ms) is predicted. If any was measured (ms on each of `devices`), there are two more columns:
    `latency_measured`, and `keeps_limit`, 1 if it is within the limit, otherwise 0. Both are empty for unmeasured
    subnets.
    """
    rows = []
    for window, subnets in best.items():
        for rank, subnet in enumerate(subnets, 1):
            row, test = _row(subnet, devices), tests.get(subnet.proposal.choice)
            low, high = test.interval if test else (None, None)
            columns = {"test_acc1": test and test.top1, "test_low": low, "test_high": high}
            rows.append({"limit": str(window), "rank": rank, **{k: row[k] for k in row if k not in ("limit", "round")},
                         **_measured(measured, subnet, window, devices),
                         **{name: "" if value is None else f"{value:.3f}" for name, value in columns.items()}})
    write_rows(path, rows)


def _measured(measured: Mapping[SubnetChoiceConfig, Sequence[float]], subnet: Evaluated, window: Window,
              devices: Sequence[str]) -> dict:
    if not measured:
        return {}
    ms = measured.get(subnet.proposal.choice)
    names = [name.replace("latency", "latency_measured", 1) for name in _names(devices)]
    if ms is None:
        return dict.fromkeys([*names, "keeps_limit"], "")
    return {**{name: f"{value:.5f}" for name, value in zip(names, ms, strict=True)},
            "keeps_limit": int(window.keeps(tuple(ms)))}


def write_export_list(path: Path, space: SupernetConfig, subnets: Iterable[Evaluated]) -> None:
    """The list for onnx_tools/export_onnx.py: lines superspace,choice,subnet."""
    with atomic_write(path) as file:
        for choice in dict.fromkeys(subnet.proposal.choice for subnet in subnets):
            file.write(f"{space.superspace},{space.choice},{choice}\n")


def read_points(path: str | Path, score: str = "") -> list[tuple[float, float]]:
    """Latency (ms) and accuracy (percent), or else the training-free `score`, of the subnets in another search's
    subnets.csv; UserError if it is none."""
    points = []
    for place, row in read_records(path, "--baseline", ("latency", "acc1")):
        try:
            latency, accuracy = float(row["latency"]), float(row["acc1"])
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
        if not (0 < latency < math.inf and (math.isfinite(accuracy) if score else 0 <= accuracy <= 100)):
            raise UserError(f"{place}: latency {latency}, acc1 {accuracy}; expected ms above 0 and "
                            f"{'a finite score' if score else 'percent'}")
        points.append((latency, accuracy))
    if not points:
        raise UserError(f"--baseline {str(path)!r} has no subnets")
    return points
