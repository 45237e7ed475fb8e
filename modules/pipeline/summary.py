"""The end of the pipeline: the table, the figure, and the gains."""
from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from modules.deploy.cards.card import card_path, read_card
from modules.deploy.naming import model_path
from modules.pipeline.results import Results, records
from modules.utils.figures import interval_errors, new_figure, save_figure
from modules.utils.results import format_table

TITLES = {"found": "found", "smallest": "smallest of the space", "random_search": "random search",
          "mobilenet_v2": "MobileNetV2"}
_COLOURS = {"found": "tab:blue", "smallest": "tab:grey", "random_search": "tab:orange", "mobilenet_v2": "tab:red"}


@dataclass(frozen=True)
class Entry:
    """An exported file, its card, and its latency `ms`: measured, or predicted for a platform that is not this machine.
    """

    name: str
    path: Path
    card: dict
    ms: float

    @property
    def top1(self) -> float:
        """Percent of the test images that the file gets right."""
        return self.card["accuracy"]["engine"]["top1"]


def print_summary(results: Results) -> list[Entry]:
    """Print the table, the gains of the network found, its file, and the paths of all figures; returns the entries."""
    entries, score = read_entries(results), results.plan.score
    start = "no network starts from a supernet" if score else "all but MobileNetV2 start from the supernet"
    how = ("measured here on one thread in the same turns, at the\nusual speed of this machine"
           if results.measured_here else
           f"as predicted for\n{results.request.platform}; the cards have the latency here")
    print(f"\nINT8 files for a limit of {results.limit:g} ms, {how}.\n"
          "Accuracy is on the test images, which no choice has seen, in brackets\n"
          f"its 95% interval. Epochs: of training alone, fp32 + INT8; {start}.\n"
          "Differ: images to which the file and the trained network give other answers.\n")
    print(format_table([_row(entry, results) for entry in entries]))
    print()
    for line in [*same(entries, results), *gains(entries, results)]:
        print(line)
    _draw(entries, results)
    found = entries[0]
    print(f"\nThe INT8 file: {found.path}\nIts card:      {found.path}.card.json\nTry it:        python "
          f"onnx_tools/predict.py --model_path {shlex.quote(str(found.path))} IMAGE ...\n\nFigures:")
    for path in _figures(results):
        if path.is_file():
            print(f"  {path}")
    return entries


def read_entries(results: Results) -> list[Entry]:
    """The exported files; that of the network found comes first."""
    entries, exports = [], results.exports()
    predicted = results.predicted([network for _, network in exports.values()]).tolist()
    for (name, (_, network)), ms in zip(exports.items(), predicted, strict=True):
        path = model_path(results.models, *network, int8=True)
        card = read_card(card_path(path))
        entries.append(Entry(name, path, card, card["latency"]["ms"] if results.measured_here else ms))
    return entries


def gains(entries: list[Entry], results: Results) -> list[str]:
    """One line for each other entry: points of accuracy and ratio of latency of the first one against it. Against other
    subnets the points are those before the last training, which they do not have."""
    found, subnets, lines = entries[0], results.compared(), []
    for other in entries[1:]:
        points, where = found.top1 - other.top1, ""
        if other.name in subnets:
            before = [results.accuracy_held_out(results.best_checkpoints(subnet), subnet)
                      for subnet in (subnets["found"], subnets[other.name])]
            points, where = before[0] - before[1], " of held-out images after the same training"
        lines.append(f"against {TITLES[other.name]}: {points:+.1f} points{where}, {other.ms / found.ms:.2f} times as "
                     "fast")
    return lines


def same(entries: list[Entry], results: Results) -> list[str]:
    """One line for each compared network that is in the table under another name."""
    named = {entry.name for entry in entries}
    return [f"{TITLES[name]}: a network that is in the table already" for name in results.compared()
            if name not in named]


def _row(entry: Entry, results: Results) -> dict:
    card, accuracy = entry.card, entry.card["accuracy"]["engine"]
    epochs, int8_epochs = (f"{results.plan.passes(n):.2g}" for n in results.epochs(entry.name))
    return {"network": TITLES[entry.name], "MMACs": f"{card['mmacs']:.2f}", "Mparams": f"{card['mparams']:.3f}",
            "epochs": f"{epochs} + {int8_epochs}",
            "int8 acc, %": f"{accuracy['top1']:.1f} [{accuracy['low']:.1f}, {accuracy['high']:.1f}]",
            "int8 ms": f"{entry.ms:.3f}", "within": "yes" if entry.ms <= results.limit else "no",
            "MB": f"{card['bytes'] / 1e6:.2f}", "differ": f"{card['agreement']['differing']} of {card['images']}"}


def _draw(entries: list[Entry], results: Results) -> None:
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for method, colour in (("random", "tab:orange"), ("evolution", "tab:blue")):
        if method in results.methods and not results.plan.score:
            rows = records(results.search_folder(method) / "subnets.csv")
            axes.plot([float(r["latency"]) for r in rows], [float(r["acc1"]) for r in rows], ".", color=colour,
                      alpha=0.3, label=f"{method}: evaluated, predicted ms, held-out images")
    for entry in entries:
        accuracy = entry.card["accuracy"]["engine"]
        error = interval_errors([entry.top1], [accuracy["low"]], [accuracy["high"]])
        axes.errorbar(entry.ms, entry.top1, error, fmt="D", color=_COLOURS[entry.name], capsize=3,
                      label=f"{TITLES[entry.name]}: file, {'measured' if results.measured_here else 'predicted'} ms, "
                            "test images")
    axes.axvline(results.limit, color="black", linestyle="--", linewidth=1, label=f"limit, {results.limit:g} ms")
    axes.set(xlabel="int8 latency, ms", ylabel="int8 top-1, %")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=2)
    axes.grid(alpha=0.3)
    save_figure(figure, results.figure)


def _figures(results: Results) -> list[Path]:
    checkpoints = results.supernet / f"{results.space}-align0"
    return [results.tables / results.request.superspace / "lut_report.png",
            *sorted(results.space_folder.glob("*.png")), checkpoints / "curves.png", checkpoints / "lsq_curves.png",
            *(results.search_folder(method) / "search.png" for method in results.methods), results.figure]
