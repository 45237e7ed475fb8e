"""Time of an ONNX file under onnxruntime, operator by operator."""
from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.runtime.ort import open_session
from modules.runtime.session import time_interleaved
from modules.utils.figures import new_figure, save_figure

_SHOWN = 9  # operators with a colour of their own


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator: their number, and their milliseconds in one run."""

    operator: str
    nodes: int
    ms: float


def profile_operators(model: str | Path | bytes, threads: int = 1, runs: int = 50,
                      warmup: int = 10) -> list[OperatorTime]:
    """The operators of the graph that onnxruntime runs for `model`, slowest first.

    A node's time is its median over the runs. The sum is a little more than the latency: measuring takes time.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, threads, profile_path=f"{folder}/profile")
        time_interleaved({"": session}, runs, warmup)
        events = json.loads(Path(session.engine.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    nodes: dict[str, list[float]] = defaultdict(list)
    for (operator, _), values in times.items():
        nodes[operator].append(float(np.median(values[2 * warmup:])))  # the model runs twice a turn
    found = [OperatorTime(operator, len(values), sum(values)) for operator, values in nodes.items()]
    return sorted(found, key=lambda entry: -entry.ms)


def plot_profiles(profiles: dict[str, list[OperatorTime]], path: str | Path) -> None:
    """Write stacked bars, one for each of the named profiles, as PNG."""
    totals: dict[str, float] = defaultdict(float)
    for entries in profiles.values():
        for entry in entries:
            totals[entry.operator] += entry.ms / sum(e.ms for e in entries)
    shown = sorted(totals, key=totals.get, reverse=True)[:_SHOWN]
    figure = new_figure(max(6.0, 1.0 + 0.45 * len(profiles)), 5.5)
    axes = figure.add_subplot()
    bottom = np.zeros(len(profiles))
    for i, operator in enumerate([*shown, "other"]):
        heights = np.array([sum(e.ms for e in entries if (e.operator if e.operator in shown else "other") == operator)
                            for entries in profiles.values()])
        axes.bar(range(len(profiles)), heights, bottom=bottom, label=operator,
                 color=f"C{i}" if operator != "other" else "lightgrey")
        bottom += heights
    axes.set_xticks(range(len(profiles)), profiles, rotation=90, fontsize=7)
    axes.set_ylabel("ms per image")
    axes.legend(fontsize=7)
    save_figure(figure, path)
