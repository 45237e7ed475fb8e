"""Search for the most accurate subnets of a trained supernet under latency limits."""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from tqdm import tqdm

from modules.search.evolution import History
from modules.search.log import SearchLog
from modules.search.subnet.figure import draw_search
from modules.search.subnet.measure import Measurement, Ranking, chosen
from modules.search.subnet.proposals import Proposer
from modules.search.subnet.record import Evaluated, pareto_front
from modules.search.subnet.state import SearchState
from modules.search.subnet.tables import read_points, write_best, write_export_list, write_subnets
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy
from modules.utils.files import write_manifest

FILES = ("subnets.csv", "subnets.csv.json", "front.csv", "best.csv", "export.csv", "search.png")
Evaluate = Callable[..., Iterable[Accuracy]]  # of (subnets, test=False), in order


class SubnetSearch:
    """The rounds of a search. `history` has the evaluated subnets in order; `run` continues from `state`.

    Args:
        proposer: gives the subnets of a round.
        evaluate: function of (subnets, test=False) that yields their accuracies in order.
        state: proposals and accuracies so far; kept up to date on disk.
    """

    def __init__(self, proposer: Proposer, evaluate: Evaluate, state: SearchState):
        self.proposer, self.evaluate, self.state = proposer, evaluate, state
        self.settings, proposer.filtered = proposer.settings, state.filtered
        self.history: History[SubnetChoiceConfig, Evaluated] = History(None, attrgetter("fitness"))

    def start(self) -> None:
        """Propose the first round, unless a continued search has it, and write the state over that of an earlier
        search. On a UserError, as of `Proposer.propose`, nothing is written."""
        if not self.state.generations:
            self._propose(0)
        self.state.run.begin()
        self.state.save()

    def run(self) -> Iterator[Evaluated]:
        """All rounds; yields each subnet after its evaluation. Ends early if a round gives nothing new.

        Raises:
            UserError: as `Proposer.propose`.
        """
        generations = self.state.generations
        for number in range(self.settings.rounds + 1):
            if number == len(generations):
                self._propose(number)
                self.state.save()
            if not generations[number]:
                break
            known = self.state.accuracies
            fresh = iter(self.evaluate([p.choice for p in generations[number] if p.choice not in known]))
            for proposal in generations[number]:
                if proposal.choice not in known:
                    known[proposal.choice] = next(fresh)
                    self.state.save(now=False)
                self.history.restore(proposal.choice, Evaluated(proposal, known[proposal.choice]))
                yield self.history.entries[-1].result
        self.state.save()

    def _propose(self, number: int) -> None:
        self.state.generations.append(self.proposer.propose(number, self.history))
        self.state.filtered = self.proposer.filtered

    @property
    def evaluated(self) -> list[Evaluated]:
        """All results in order."""
        return [entry.result for entry in self.history.entries]

    def best(self, count: int) -> Ranking:
        """For each window the `count` most accurate subnets in it, even if proposed for another window.

        A window without an evaluated subnet is missing; `max_evaluations` may cause that.
        """
        best = {}
        for window in self.settings.windows:
            top = self.history.top(count, lambda entry, window=window: window.holds(entry.result.proposal.latency))
            if top:
                best[window] = [entry.result for entry in top]
        return best

    def test(self, subnets: Iterable[Evaluated]) -> dict[SubnetChoiceConfig, Accuracy]:
        """Accuracies of `subnets` on the test images."""
        choices, tests = list(dict.fromkeys(s.proposal.choice for s in subnets)), self.state.tests
        missing = [choice for choice in choices if choice not in tests]
        for choice, accuracy in zip(missing, self.evaluate(missing, test=True), strict=True):
            tests[choice] = accuracy
            self.state.save()
        return {choice: tests[choice] for choice in choices}


def run_search(search: SubnetSearch, folder: Path, log_path: Path, *, top_num: int = 1, tested: bool = False,
               notes: Sequence[str] = (), baseline: str | Path = "", label: str = "int8 top-1, %",
               measurement: Measurement | None = None) -> Ranking:
    """Run `search`, measure the best, test them on the test images, and write log, tables and figure.

    Args:
        search: the search to run.
        folder: of subnets.csv, front.csv, best.csv, export.csv and search.png.
        log_path: the log.
        top_num: number of the best subnets of each limit that are listed, one at least.
        tested: whether `top_num` of them are tested.
        notes: lines for the top of the log.
        baseline: another search's subnets.csv, for the figure.
        label: of the fitness, for the figure.
        measurement: of the best subnets; None: predictions rank them.

    Returns:
        The best subnets of each window, best first; `chosen` selects those that keep their measured limits.
    """
    points = read_points(baseline, search.settings.fitness) if baseline else []
    search.start()
    with SearchLog(log_path) as log:
        for note in notes:
            log.write(note)
        _run_rounds(search, folder, log)
        count = max(top_num, 1)
        ranking = measurement.rank(search.best(len(search.history)), count) if measurement else search.best(count)
        measured = search.state.measured if measurement else {}
        tests = search.test(s for subnets in ranking.values() for s in subnets[:count]) if tested and top_num else {}
        _log_ranking(log, ranking, measured, tests)
    front = pareto_front(search.evaluated)
    devices = list(search.proposer.platforms)
    write_subnets(folder / "front.csv", front, devices)
    write_best(folder / "best.csv", ranking, tests, measured, devices)
    config = search.proposer.subnets.config
    write_export_list(folder / "export.csv", config, chosen(ranking, measured).values())
    draw_search(folder / "search.png", f"{config}, {search.settings.method}", search.evaluated,
                search.settings.windows, devices, label, points)
    write_manifest(folder / "subnets.csv", **search.state.identity)
    return ranking


def _log_ranking(log: SearchLog, ranking: Ranking, measured: Mapping, tests: Mapping) -> None:
    best = chosen(ranking, measured)
    for window, subnets in ranking.items():
        log.write(f"Best Valid Acc within {window.words}: {best[window].accuracy.top1:.2f}" if window in best else
                  f"None of {len(subnets)} measured subnets is within {window.words}")
        for subnet in subnets:
            test, ms = tests.get(subnet.proposal.choice), measured.get(subnet.proposal.choice)
            line = str(subnet) + (f" Test Acc1: {test.top1:.2f}" if test else "")
            if ms:
                line += f" measured: {'+'.join(f'{v:.3f}' for v in ms)} ms" + " (over the limit)" * (
                    not window.keeps(ms))
            log.write(line)


def _run_rounds(search: SubnetSearch, folder: Path, log: SearchLog) -> None:
    number = -1
    with tqdm(unit="subnet", disable=not sys.stderr.isatty()) as bar:
        for subnet in search.run():
            if subnet.proposal.round != number:
                _end_round(search, folder, log, number, len(search.history) - 1)
                number = subnet.proposal.round
                log.write(f"Round {number}: {len(search.state.generations[number])} subnets")
            log.write(str(subnet))
            bar.update()
            bar.set_description(f"round {number}")
    _end_round(search, folder, log, number, len(search.history))


def _end_round(search: SubnetSearch, folder: Path, log: SearchLog, number: int, count: int) -> None:
    if number < 0:
        return
    entries = search.history.entries[:count]
    for window in search.settings.windows:
        within = [e for e in entries if window.holds(e.result.proposal.latency)]
        if within:
            log.write(f"Best within {window.words} after round {number}: "
                      f"{max(within, key=attrgetter('fitness')).result}")
    write_subnets(folder / "subnets.csv", [entry.result for entry in entries], list(search.proposer.platforms))
