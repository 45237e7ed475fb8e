"""State of a subnet search on disk: proposals and accuracies. A killed search continues from it."""
from __future__ import annotations

import operator
import time
from dataclasses import astuple

from modules.search.subnet.record import Proposal
from modules.search.subnet.window import Latency
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy
from modules.utils.runs import Run

SAVE_SECONDS = 5.0  # of work that a kill may lose


class SearchState:
    """Generations of proposals, the number of subnets that a prefilter kept out of them, accuracies by subnet (of the
    validation and of the test images), and measured latencies (ms on each device).

    Everything else follows from these: a search replays them and continues at their end.

    Args:
        run: the search's folder; its state is read if the search continues.
        identity: everything that the results depend on, as plain values; a state of another identity is refused.

    Raises:
        UserError: a state that is damaged, or of another search.
    """

    def __init__(self, run: Run, identity: dict):
        self.run, self.identity = run, identity
        self.generations: list[list[Proposal]] = []
        self.filtered = 0
        self.accuracies: dict[SubnetChoiceConfig, Accuracy] = {}
        self.tests: dict[SubnetChoiceConfig, Accuracy] = {}
        self.measured: dict[SubnetChoiceConfig, tuple[float, ...]] = {}
        self._saved = time.monotonic()
        if run.continues:
            self._load()

    def _load(self) -> None:
        state = self.run.read_state(self.identity)
        with self.run.reading():
            self.generations = [[_proposal(row) for row in rows] for rows in state["generations"]]
            self.filtered = operator.index(state.get("filtered", 0))
            for part, rows in ((self.accuracies, state["accuracies"]), (self.tests, state["tests"])):
                part.update((SubnetChoiceConfig.from_str(text), _accuracy(*values)) for text, values in rows.items())
            self.measured.update((SubnetChoiceConfig.from_str(text), _floats(values))
                                 for text, values in state["measured"].items())

    def save(self, now: bool = True) -> None:
        """Write everything; without `now` only if the last write is some seconds ago."""
        if not now and time.monotonic() - self._saved < SAVE_SECONDS:
            return
        generations = [[{**vars(p), "choice": str(p.choice), "latency": vars(p.latency)} for p in generation]
                       for generation in self.generations]
        accuracies, tests = ({str(choice): astuple(accuracy) for choice, accuracy in part.items()}
                             for part in (self.accuracies, self.tests))
        measured = {str(choice): ms for choice, ms in self.measured.items()}
        self.run.write_state(self.identity, {"generations": generations, "filtered": self.filtered,
                                             "accuracies": accuracies, "tests": tests, "measured": measured})
        self._saved = time.monotonic()


def _proposal(row: dict) -> Proposal:
    latency = row["latency"]
    return Proposal(
        SubnetChoiceConfig.from_str(row["choice"]),
        Latency(_floats(latency["ms"]), _floats(latency["upper"]), bool(latency["extrapolated"])),
        float(row["mflops"]), float(row["params"]), operator.index(row["round"]), _floats(row["limits"]),
        float(row["file_mb"]), float(row["memory_mb"]))


def _accuracy(top1, top5, loss, images) -> Accuracy:
    return Accuracy(float(top1), float(top5), float(loss), operator.index(images))


def _floats(values) -> tuple[float, ...]:
    return tuple(map(float, values))
