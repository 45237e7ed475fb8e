"""Many model cards as one table and one figure."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean

from modules.deploy.cards.card import SUFFIX, read_card
from modules.utils.errors import UserError
from modules.utils.figures import interval_errors, new_figure, save_figure

_MARKERS = {"fp32": "o", "int8 lsq": "s", "int8 engine": "D"}


def read_cards(folders: Iterable[str | Path]) -> list[dict]:
    """All cards in the folders and below, ordered by supernet, precision and multiply-accumulates.

    Raises:
        UserError: a folder that does not exist or holds no card.
    """
    cards = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"folder {str(folder)!r} does not exist; export_onnx.py writes models with cards")
        found = [read_card(path) for path in sorted(folder.rglob(f"*{SUFFIX}"))]
        if not found:
            raise UserError(f"folder {str(folder)!r} holds no model card (*{SUFFIX}); export_onnx.py writes them")
        cards += found
    return sorted(cards, key=lambda card: (card["supernet"], card["precision"], card["mmacs"]))


def label(card: dict) -> str:
    """A short name: the published one, or superspace and digest of the file's name."""
    superspace = card["supernet"].split("-")[0]
    digest = re.search(r"_([0-9a-f]{6})(_|\.)", card["model"])
    return card["name"] or (f"{superspace} {digest[1]}" if digest else superspace)


def weight_bits(card: dict) -> int:
    """Bits of the weights; cards of before tell none."""
    return card.get("weight_bits", 8 if card["precision"] == "int8" else 32)


def rows(cards: list[dict]) -> list[dict]:
    """The cards as rows of a table; an unknown figure is empty."""
    return [{
        "model": label(card), "precision": card["precision"], "file": Path(card["model"]).suffix[1:],
        "input": card["input"], "trained": card["training"], "placement": card["placement"] or "",
        "weight bits": weight_bits(card),
        "data set": card["dataset"], "images": card["images"],
        "fp32 acc, %": _accuracy(card["accuracy"]["fp32"]), "network acc, %": _accuracy(card["accuracy"]["network"]),
        "engine acc, %": _accuracy(card["accuracy"]["engine"]), "agreement, %": f"{card['agreement']['percent']:.2f}",
        "MMACs": f"{card['mmacs']:.2f}", "Mparams": f"{card['mparams']:.3f}", "MB": f"{card['bytes'] / 1e6:.2f}",
        "ms": _latency(card["latency"]), "checkpoint": card["checkpoint"]["sha256"][:8]} for card in cards]


def _accuracy(figures: dict | None) -> str:
    return f"{figures['top1']:.2f} [{figures['low']:.2f}, {figures['high']:.2f}]" if figures else ""


def _latency(latency: dict | None) -> str:
    return f"{latency['ms']:.3f} ± {latency['spread_ms']:.3f}" if latency else ""


def latency_rows(figures: Mapping[str, tuple[float, float]]) -> list[dict]:
    """Rows of a table of files: latency and spread (ms), and latency as a share of the first file's. Names that several
    files have are shown with their folders."""
    first = next(iter(figures.values()))[0]
    names = [Path(path).name for path in figures]
    return [{"file": path if names.count(name) > 1 else name, "ms": f"{ms:.3f}", "spread, ms": f"{spread:.3f}",
             "of the first": f"{ms / first:.2f}"}
            for name, (path, (ms, spread)) in zip(names, figures.items(), strict=True)]


def speedup_lines(ratios: Sequence[Mapping[str, float]]) -> list[str]:
    """One line for each kind of file: how many times as fast int8 is, over several networks.

    Args:
        ratios: for each network, latency of each kind over that of int8, such as {"fp32": 2.1, "static": 1.02}.
    """
    by_kind = {kind: [ratio[kind] for ratio in ratios] for kind in ratios[0]}
    return [f"int8 is {geometric_mean(values):.3f} times as fast as {kind} in the geometric mean, {min(values):.3f} "
            "times at least" for kind, values in by_kind.items()]


def megabytes_text(megabytes: float | None) -> str:
    """Peak memory for a csv or card; empty if it is not known."""
    return "" if megabytes is None else f"{megabytes:.1f}"


def plot_cards(cards: list[dict], path: str | Path) -> None:
    """Write accuracy over latency as PNG: a colour for each supernet and way of training, a marker for each precision,
    half filled for weights of fewer than 8 bits.

    Cards without a latency are left out.
    """
    from matplotlib import colormaps

    timed = sorted((card for card in cards if card["latency"]), key=lambda card: card["latency"]["ms"])
    figure = new_figure(10, 5)
    axes = figure.add_subplot()
    origins = list(dict.fromkeys(map(_origin, timed)))
    colours = colormaps["tab10" if len(origins) <= 10 else "tab20"].colors
    series: dict[tuple[str, str, int], list[dict]] = {}
    for card in timed:
        series.setdefault((_origin(card), _kind(card), weight_bits(card)), []).append(card)
    for (origin, kind, bits), chosen in sorted(series.items(), key=lambda entry: entry[0]):
        top = [card["accuracy"]["engine"] for card in chosen]
        errors = interval_errors(*([a[name] for a in top] for name in ("top1", "low", "high")))
        axes.errorbar([c["latency"]["ms"] for c in chosen], [a["top1"] for a in top], errors, marker=_MARKERS[kind],
                      linestyle=":", color=colours[origins.index(origin) % len(colours)],
                      fillstyle="none" if kind == "fp32" else "top" if bits < 8 else "full", capsize=2, elinewidth=0.7,
                      label=f"{origin} {kind}" + f", weights of {bits} bits" * (bits < 8))
    axes.set(xlabel="latency, ms", ylabel="top-1 of the engine, % (95% interval)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def _origin(card: dict) -> str:
    return card["supernet"] + ", trained alone" * (card["training"] == "alone")


def _kind(card: dict) -> str:
    return f"{card['precision']} {card['placement'] or ''}".rstrip()
