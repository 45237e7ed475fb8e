"""State of a subnet search on disk: what was proposed and what was evaluated, so that a killed search can go on."""
from __future__ import annotations

import json
import time
from dataclasses import astuple
from pathlib import Path

from modules.search.state import check_no_search, read_state
from modules.search.subnet.record import Proposal
from modules.search.subnet.window import Latency
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy
from modules.utils.files import atomic_write

SAVE_SECONDS = 5.0  # work that a kill may lose


class SearchState:
    """Generations of proposals, and accuracies by subnet (of the validation and of the test images).

    Everything else follows from these, so that a search replays them and goes on where they end.

    Args:
        path: the json file.
        identity: what the results depend on, as plain values; a file of another identity is refused.
        resume: read the file.
        overwrite: ignore a file that is there.

    Raises:
        UserError: a file that is neither resumed nor to be overwritten; with `resume` none, or one of another search.
    """

    def __init__(self, path: Path, identity: dict, resume: bool = False, overwrite: bool = False):
        self.path, self.identity = path, identity
        self.generations: list[list[Proposal]] = []
        self.accuracies: dict[SubnetChoiceConfig, Accuracy] = {}
        self.tests: dict[SubnetChoiceConfig, Accuracy] = {}
        self._saved = time.monotonic()
        check_no_search(path, resume, overwrite)
        if resume:
            self._load()

    def _load(self) -> None:
        state = read_state(self.path, self.identity)
        self.generations = [[_proposal(row) for row in rows] for rows in state["generations"]]
        for part, rows in ((self.accuracies, state["accuracies"]), (self.tests, state["tests"])):
            part.update((SubnetChoiceConfig.from_str(encoding), Accuracy(*values)) for encoding, values in rows.items())

    def save(self, now: bool = True) -> None:
        """Write everything; unless `now`, only when the last time is some seconds ago."""
        if not now and time.monotonic() - self._saved < SAVE_SECONDS:
            return
        generations = [[{**vars(p), "choice": str(p.choice), "latency": vars(p.latency)} for p in generation]
                       for generation in self.generations]
        accuracies, tests = ({str(choice): astuple(accuracy) for choice, accuracy in part.items()}
                             for part in (self.accuracies, self.tests))
        with atomic_write(self.path) as file:
            file.write(json.dumps({"identity": self.identity, "generations": generations, "accuracies": accuracies,
                                   "tests": tests}))
        self._saved = time.monotonic()


def _proposal(row: dict) -> Proposal:
    latency = row["latency"]
    return Proposal(**{
        **row, "choice": SubnetChoiceConfig.from_str(row["choice"]), "limits": tuple(row["limits"]),
        "latency": Latency(tuple(latency["ms"]), tuple(latency["upper"]), latency["extrapolated"])})
