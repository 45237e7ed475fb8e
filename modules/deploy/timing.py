"""Latencies of the model files that a command line names: printed, and kept in their cards and in a csv."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from modules.deploy.arguments import given_subnets
from modules.deploy.cards.card import add_latency, check_cards
from modules.deploy.cards.report import latency_rows, megabytes_text, speedup_lines
from modules.runtime.session import Session
from modules.runtime.timers import Measured, Timer
from modules.search_space.reference import reference_to
from modules.utils.results import append_row, format_table


def time_given(args, timer: Timer, models: Callable[..., Mapping[str, Path | Session]], baselines: Iterable[str],
               together: bool = False) -> None:
    """Time the files of --model_path, or the networks that the options name, each for itself or all `together`: prints
    latencies, and writes them to the cards, those of networks to the csv too.

    Args:
        models: a function that gives, of the options and a network, what to time: fp32 and int8, and any of
            `baselines`.
        baselines: all that have columns in the csv.
    """
    if args.model_path:
        _time_files(args.model_path, timer)
        return
    networks, conditions, ratios = given_subnets(args), timer.describe(), []
    for group in [networks] if together else [[network] for network in networks]:
        named = [(reference_to(*network), models(args, *network)) for network in group]
        measured = timer.measure({(name, kind): model for name, kinds in named for kind, model in kinds.items()})
        for name, kinds in named:
            times = {kind: measured[name, kind] for kind in kinds}
            for kind in ("fp32", "int8"):
                _keep(kinds[kind], times[kind], conditions)
            speedups = {kind: m.ms / times["int8"].ms for kind, m in times.items() if kind != "int8"}
            engine = f" ({times['int8'].engine})" if times["int8"].engine else ""
            print(f"{name}: {', '.join(f'{kind} {m.ms:.2f} ms' for kind, m in times.items())}, "
                  f"{speedups['fp32']:.2f}x{engine}", flush=True)
            append_row(args.output, _row(name, times, speedups["fp32"], conditions, baselines))
            ratios.append(speedups)
    print("\n".join(speedup_lines(ratios)))


def _time_files(paths: Sequence[str], timer: Timer) -> None:
    """Print a table, and write the latencies to the cards of the files."""
    check_cards(paths)
    times, conditions = timer.measure({path: Path(path) for path in paths}), timer.describe()
    print(format_table(latency_rows({path: (m.ms, m.spread_ms) for path, m in times.items()})), flush=True)
    for path, measured in times.items():
        _keep(path, measured, conditions)


def _keep(path: str | Path, measured: Measured, conditions: Mapping) -> None:
    """Write a latency to the card of the file."""
    add_latency(path, {"ms": measured.ms, "spread_ms": measured.spread_ms,
                       "peak_mb": megabytes_text(measured.memory_mb), **conditions, **_engine(measured)})


def _row(name: str, times: Mapping[str, Measured], speedup: float, conditions: Mapping,
         baselines: Iterable[str]) -> dict:
    """A line of the csv: latencies, conditions, peak memory, baselines. Baselines come before the conditions where no
    engine is told, as in the csv files that are there."""
    texts = {kind: {"ms": f"{m.ms:.3f}", "spread_ms": f"{m.spread_ms:.3f}", **_engine(m)} for kind, m in times.items()}
    row = {"name": name, "fp32_ms": texts["fp32"]["ms"], "int8_ms": texts["int8"]["ms"], "speedup": f"{speedup:.2f}",
           "fp32_spread_ms": texts["fp32"]["spread_ms"], "int8_spread_ms": texts["int8"]["spread_ms"]}
    others = {f"{kind}_{key}": texts[kind][key] if kind in texts else "" for kind in baselines for key in texts["int8"]}
    rest = {**conditions, **_engine(times["int8"]),
            **{f"{kind}_peak_mb": megabytes_text(times[kind].memory_mb) for kind in ("fp32", "int8")}}
    return row | (rest | others if times["int8"].engine else others | rest)


def _engine(measured: Measured) -> dict[str, str]:
    return {"engine": measured.engine} if measured.engine else {}
