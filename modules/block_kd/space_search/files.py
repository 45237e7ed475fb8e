"""Files of the space search: the log, the tables, and the state that a killed search continues from."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modules.block_kd.score.quality import Quality, SpaceScore
from modules.search.evolution import AgingEvolution, Entry
from modules.search.log import SearchLog
from modules.search_space.config import SupernetConfig
from modules.utils.results import write_table
from modules.utils.runs import Run

SpaceEntry = Entry[SupernetConfig, SpaceScore]


def describe(entry: SpaceEntry) -> str:
    """An individual as in the published log."""
    s = entry.result
    return (f"arch:{entry.individual.choice.replace('-', '_')}-score:{s.score:.4f}-lat_loss:{s.latency_loss:.2f}"
            f"-top_loss:{s.top_loss:.4f}")


class SpaceLog(SearchLog):
    """`output.log`. Its lines follow from the history alone: they can be written again at any time."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._start_size, self._written = 0, 0
        self.write("Generating population")

    def update(self, entries: Sequence[SpaceEntry]) -> None:
        """Log the entries that are new since the last call."""
        for number, entry in enumerate(entries[self._written:], start=self._written + 1):
            if number == 1:
                self.write("Initial population:")
            if entry.parent is None:
                self.write(describe(entry))
                continue
            if entries[number - 2].parent is None:
                self._start_size = number - 1
                self.write("Start Evolution Search")
            self.write(f"Iter {number - self._start_size:4d}  parent: {describe(entry.parent)}  "
                       f"child: {describe(entry)}")
        self._written = len(entries)


def write_scores(path: Path, entries: Sequence[SpaceEntry], limits: Sequence[float]) -> None:
    """All scored spaces in order: sums over the limits, then score and share of feasible subnets of every limit."""
    rows = []
    for index, entry in enumerate(entries):
        s, parent = entry.result, entry.parent.individual.choice if entry.parent else ""
        values = [v for q in s.per_limit for v in (q.score, q.feasible)]
        rows.append([index, entry.individual.choice, *_numbers(s.score, s.latency_loss, s.top_loss), parent,
                     *_numbers(*values)])
    write_table(path, ["index", "choice", "score", "latency_loss", "top_loss", "parent",
                       *(f"{name}_{limit:g}" for limit in limits for name in ("score", "feasible"))], rows)


def _numbers(*values: float) -> list[str]:
    return [f"{v:.6g}" for v in values]


def save_state(run: Run, identity: dict, evolution: AgingEvolution) -> None:
    """Write everything that continuing needs. `identity` holds the settings of the search."""
    positions: dict[SupernetConfig, int] = {e.individual: i for i, e in enumerate(evolution.history.entries)}
    entries = [[e.individual.choice, positions[e.parent.individual] if e.parent else None,
                [[q.score, q.latency_loss, q.top_loss, q.feasible] for q in e.result.per_limit]]
               for e in evolution.history.entries]
    run.write_state(identity, {"seeded": evolution.seeded, "rng": evolution.rng.bit_generator.state,
                               "entries": entries})


def load_state(run: Run, identity: dict, superspace: str, evolution: AgingEvolution) -> None:
    """Put a saved search back into `evolution`; UserError if it is damaged or of another search."""
    state = run.read_state(identity, {"block_types": ()})  # older searches chose among all
    with run.reading():
        for choice, parent, per_limit in state["entries"]:
            score = SpaceScore(tuple(Quality(*map(float, values)) for values in per_limit))
            evolution.history.restore_child(SupernetConfig.from_choice(superspace, choice), score, parent)
        evolution.rng.bit_generator.state, evolution.seeded = state["rng"], bool(state["seeded"])
