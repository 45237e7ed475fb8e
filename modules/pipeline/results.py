"""Files of the steps of the pipeline, and the networks that their tables give to later steps."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from modules.latency import get_platform
from modules.modeling.net_spec import resolve
from modules.pipeline.limit import rank_within
from modules.pipeline.losses import SCORED_TABLES, Losses, asked_losses
from modules.pipeline.plan import FINALISTS, Plan
from modules.pipeline.request import OWN, Request
from modules.pipeline.rival import Network, choose_rival, rival_candidates
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.reference import read_network
from modules.search_space.subnet_space import SubnetSpace
from modules.utils.csv_files import read_records
from modules.utils.files import atomic_write

# Of a pipeline in its folder; a run that starts afresh removes them.
FILES = ("teacher", "blocks", "tables", "zero_shot_tables", "spaces", "supernet", "samples", "samples_latency.csv",
         "subnets", "candidates", "candidates_latency.csv", "rivals", "rivals_latency.csv", "tuned", "check", "last",
         "rival", "models", "latency.csv", "accuracy_over_latency.png")
DRAWN, SAMPLES = 24, 6  # random subnets, and those of them that show how far predictions are off
SAFE = 0.95  # share of the limit within which a network is chosen: a file's latency differs between measurements


class Results:
    """The files of a pipeline that looks for a network of `classes` classes within `limit` ms, which are `table_limit`
    ms on the device of the block tables; each attribute is named after the step that writes it. FILES lists them.
    `shifted`: trainings shift the images instead of cropping them. `losses`: those of the tables; None: as asked."""

    def __init__(self, request: Request, plan: Plan, limit: float, classes: int, table_limit: float = 0.0,
                 shifted: bool = False, losses: Losses | None = None):
        self.request, self.plan, self.limit, self.classes = request, plan, limit, classes
        self.table_limit, self.shifted, self.losses = table_limit or limit, shifted, losses or asked_losses(request)
        folder = request.folder
        self.teacher, self.blocks, self.spaces = folder / "teacher", folder / "blocks", folder / "spaces"
        self.tables = folder / "tables" if request.tables == OWN else Path(request.tables).resolve()
        self.zero_shot_tables = SCORED_TABLES if self.losses.scored else folder / "zero_shot_tables"
        self.supernet, self.tuned = folder / "supernet", folder / "tuned"
        self.last, self.rival = folder / "last", folder / "rival"
        self.samples, self.samples_latency = folder / "samples", folder / "samples_latency.csv"
        self.rivals, self.rivals_latency = folder / "rivals", folder / "rivals_latency.csv"
        self.subnets, self.candidates, self.models = folder / "subnets", folder / "candidates", folder / "models"
        self.check, self.figure = folder / "check", folder / "accuracy_over_latency.png"
        self.candidates_latency, self.latency = folder / "candidates_latency.csv", folder / "latency.csv"
        self.methods = ("evolution",) if request.no_baselines else ("evolution", "random")

    @cached_property
    def space_folder(self) -> Path:
        """Tables and figures of the search of the space."""
        (table,) = (self.spaces / self.request.superspace).glob("*/top50.csv")
        return table.parent

    @cached_property
    def space(self) -> SupernetConfig:
        """The space found."""
        best = records(self.space_folder / "top50.csv")[0]["choice"]
        return SupernetConfig.from_choice(self.request.superspace, best)

    @cached_property
    def measured_here(self) -> bool:
        """Whether networks are measured: the platform is `onnxruntime_int8` or one like it, of this machine. Those of
        all others, profiles of this machine too, are predicted."""
        return hasattr(get_platform(self.request.platform), "measure_subnet")

    def predicted(self, networks: Sequence[Network]) -> np.ndarray:
        """Predicted latencies (ms) of networks on the platform."""
        nets = [resolve(*network, self.classes) for network in networks]
        return get_platform(self.request.platform).predict_subnets(nets).ms

    def _predicted(self, subnets: Sequence[SubnetChoiceConfig]) -> np.ndarray:
        """Predicted latencies (ms) of subnets of the space found."""
        return self.predicted([(self.space, subnet) for subnet in subnets])

    def _latencies(self, subnets: Sequence[SubnetChoiceConfig]) -> dict[str, float]:
        """The latency (ms) that decides about candidates, by their encoding: the measured one, if that counts."""
        if self.measured_here:
            return self._measured(self.candidates_latency)
        return dict(zip(map(str, subnets), self._predicted(subnets).tolist(), strict=True))

    def drawn_samples(self) -> list[Network]:
        """Random subnets of the space found whose predicted latency is nearest to the limit; none if latencies measured
        here do not count."""
        if not self.measured_here:
            return []
        rng, space = np.random.default_rng(self.request.seed), SubnetSpace(self.space, self.plan.resolutions)
        drawn = list(dict.fromkeys(space.sample(rng) for _ in range(DRAWN)))
        order = np.argsort(np.abs(self._predicted(drawn) - SAFE * self.limit), kind="stable")
        return [(self.space, drawn[i]) for i in order[:SAMPLES]]

    @cached_property
    def measured_over_predicted(self) -> float:
        """The median ratio of the measured latency of the samples to the predicted one; 1 where none was measured."""
        if not self.samples_latency.is_file():
            return 1.0
        measured = self._measured(self.samples_latency)
        predicted = self._predicted([SubnetChoiceConfig.from_str(encoding) for encoding in measured])
        return float(np.median(np.array(list(measured.values())) / predicted))

    @cached_property
    def search_limit(self) -> float:
        """The limit (ms) for predicted latencies: those of subnets that are measured safely within the limit, if the
        smallest subnet leaves room below that. The best by a score are all as slow as the search allows."""
        limit = SAFE * self.limit / self.measured_over_predicted
        return float(f"{limit:.4g}") if self._predicted([self.smallest])[0] <= SAFE * limit else self.limit

    def search_folder(self, method: str = "evolution") -> Path:
        """Tables and figure of the subnet search by `method`."""
        (table,) = (self.subnets / method).glob("*/*/best.csv")
        return table.parent

    @property
    def smallest(self) -> SubnetChoiceConfig:
        """The smallest subnet of the space found."""
        return SubnetSpace(self.space, self.plan.resolutions).extreme(min)

    def best_predicted(self) -> list[Network]:
        """The best subnets of each search by predicted latency, and the smallest."""
        found = [SubnetChoiceConfig.from_str(row["enc"]) for method in self.methods
                 for row in records(self.search_folder(method) / "best.csv")]
        return [(self.space, subnet) for subnet in dict.fromkeys([*found, self.smallest])]

    def best_measured(self, method: str = "evolution") -> list[SubnetChoiceConfig]:
        """The best of a search whose latency is safely within the limit, the most accurate on held-out images first;
        then the others, the fastest first."""
        rows, order = records(self.search_folder(method) / "best.csv"), []
        latencies = self._latencies([SubnetChoiceConfig.from_str(row["enc"]) for row in rows])
        for row in rows:
            ms = latencies[row["enc"]]
            order.append((rank_within(SAFE * self.limit, ms, float(row["acc1"])), ms, row["enc"]))
        return [SubnetChoiceConfig.from_str(encoding) for *_, encoding in sorted(order)]

    def _measured(self, table: Path) -> dict[str, float]:
        """The measured latency (ms) of each subnet of the space found in `table`, by its encoding."""
        return {row["name"].removeprefix(f"{self.space}-"): float(row["int8_ms"]) for row in records(table)}

    def finalists(self) -> list[SubnetChoiceConfig]:
        """The subnets that are trained further: the best measured ones of the search, and the smallest of the space.

        A supernet trained for a short time ranks its smallest subnet, which learns in every step, above larger ones;
        training of their own decides."""
        others = [subnet for subnet in self.best_measured() if subnet != self.smallest]
        return [*others[:FINALISTS - 1], self.smallest]

    def trained(self) -> list[SubnetChoiceConfig]:
        """All subnets that are trained further, of which the best is taken: the finalists, and random search's best."""
        random = [] if self.request.no_baselines else self.best_measured("random")[:1]
        return list(dict.fromkeys([*self.finalists(), *random]))

    def tuned_folder(self, subnet: SubnetChoiceConfig) -> Path:
        """The folder of a subnet's further training."""
        return self.tuned / f"subnet{self.trained().index(subnet) + 1}"

    def checked(self) -> list[tuple[Path, list[SubnetChoiceConfig]]]:
        """The weights to check on the held-out images, and their subnets: all in the supernet, if there is one, and
        each after its training alone."""
        supernets = [] if self.plan.score else [(self.supernet, self.trained())]
        return [*supernets, *((self.tuned_folder(subnet), [subnet]) for subnet in self.trained())]

    def check_folder(self, checkpoints: Path) -> Path:
        """The folder with the accuracies of these subnets by the weights in `checkpoints`."""
        return self.check / checkpoints.name

    def accuracy_held_out(self, checkpoints: Path, subnet: SubnetChoiceConfig) -> float:
        """Percent of the held-out images that one of them gets right with the weights in `checkpoints`."""
        (row,) = [row for row in records(self.check_folder(checkpoints) / "accuracy.csv")
                  if row["enc"] == str(subnet)]
        return float(row["acc1"])

    def best_checkpoints(self, subnet: SubnetChoiceConfig) -> Path:
        """The folder with the best weights of one of them before the last training: those of its training alone, or of
        the supernet, if there is one."""
        folders = [self.tuned_folder(subnet)] + [self.supernet] * (not self.plan.score)
        return max(folders, key=lambda path: self.accuracy_held_out(path, subnet))

    @property
    def found(self) -> SubnetChoiceConfig:
        """The most accurate of those trained further, on held-out images; over the limit only if all are."""
        trained = self.trained()
        latencies = self._latencies(trained)
        return min(trained, key=lambda subnet: rank_within(
            SAFE * self.limit, latencies[str(subnet)], self.accuracy_held_out(self.best_checkpoints(subnet), subnet)))

    @property
    def last_checkpoints(self) -> Path:
        """The folder with the best weights of the network found."""
        return max((self.last, self.best_checkpoints(self.found)),
                   key=lambda path: self.accuracy_held_out(path, self.found))

    def epochs(self, name: str) -> tuple[int, int]:
        """Epochs in fp32 and in INT8 in which the weights of an exported file were trained alone."""
        p = self.plan
        if name == "mobilenet_v2":
            return p.rival_epochs, p.rival_int8_epochs
        checkpoints, (_, subnet) = self.exports()[name]
        last = checkpoints == self.last
        alone = (self.best_checkpoints(subnet) if last else checkpoints) != self.supernet
        int8 = p.last_int8_epochs if last else alone * p.tuning_int8_epochs  # INT8 begins anew from fp32 weights
        return alone * p.tuning_epochs + last * p.last_epochs, int8

    def rival_candidates(self) -> list[Network]:
        """Networks that a user would take instead."""
        return rival_candidates(self.limit, self.request.platform, self.plan.resolutions, self.classes)

    def rival_network(self) -> Network:
        """The largest of them whose latency is within the limit."""
        if self.measured_here:
            rows = [(read_network(row["name"]), float(row["int8_ms"])) for row in records(self.rivals_latency)]
            latencies = {(network.space, network.subnet): ms for network, ms in rows}
        else:
            candidates = self.rival_candidates()
            latencies = dict(zip(candidates, self.predicted(candidates).tolist(), strict=True))
        return choose_rival(latencies, self.limit, self.classes)

    def compared(self) -> dict[str, SubnetChoiceConfig]:
        """The compared subnets of the space, of which some may be the same: name -> subnet."""
        subnets = {"found": self.found, "smallest": self.smallest}
        if not self.request.no_baselines:
            subnets["random_search"] = self.best_measured("random")[0]
        return subnets

    @property
    def num_exports(self) -> int:
        """Number of networks to export."""
        return len(set(self.compared().values())) + (not self.request.no_baselines)

    def exports(self) -> dict[str, tuple[Path, Network]]:
        """The networks to export, each once: name -> (folder of its checkpoint, network)."""
        names: dict[SubnetChoiceConfig, str] = {}
        for name, subnet in self.compared().items():
            names.setdefault(subnet, name)
        exports = {name: (self.last_checkpoints if name == "found" else self.best_checkpoints(subnet),
                          (self.space, subnet)) for subnet, name in names.items()}
        if not self.request.no_baselines:
            exports["mobilenet_v2"] = (self.rival, self.rival_network())
        return exports

    def listing(self, name: str) -> Path:
        """The input.csv of the export called `name`; all: of all of them."""
        return self.models / f"{name}.csv"


def records(path: Path) -> list[dict]:
    """The rows of a csv file with a header."""
    return [row for _, row in read_records(path, "table", ())]


def list_subnets(path: Path, networks: Iterable[Network]) -> None:
    """Write the list for the tools of onnx_tools/."""
    with atomic_write(path) as file:
        for space, subnet in networks:
            file.write(f"{space.superspace},{space.choice},{subnet}\n")
