"""Settings of the subnet search. No torch code."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from modules.search.generations import GenerationSizes
from modules.search.limits import SizeLimits, check_limited
from modules.search.predictor import PREDICTORS
from modules.search.subnet.window import Window
from modules.utils.errors import UserError
from modules.utils.settings import PIXELS, SEED, check_settings, setting

METHODS = ("evolution", "random")
SURVIVAL = ("fittest", "pareto")


@dataclass(frozen=True)
class SearchSettings:
    """Settings that decide which subnets are evaluated; the defaults are the published ones.

    `limits` and `delta` are in ms; `devices` limits in a row, one for each device, hold at once; `size_limits` hold
    with all of them. With a `confidence` (0: none) a latency counts as within a limit if that share of its predicted
    distribution is within. `rounds` follow the start. `max_evaluations` ends the search (0: no bound).
    """

    limits: tuple[float, ...] = setting(
        (), "latency limits; several share all evaluations. With several platforms: one for each, in their order, "
        "once or several times", many="+", above=0, unit="ms", name="latency_constraint", shown="any latency, where "
        "another limit is given")
    delta: float = setting(5.0, "width of the latencies below a limit that are considered (with several platforms on "
                           "one of them; all keep their limit)", above=0, unit="ms", name="latency_delta",
                           needs="limits")
    devices: int = 1
    confidence: float = setting(0.0, "share of a subnet's predicted distribution that must be within a limit, such as "
                                "0.9; 0: its predicted latency must be", low=0.5, below=1, name="latency_confidence",
                                needs="limits")
    method: str = setting("evolution", "search; random: the baseline", choices=METHODS)
    survival: str = setting("fittest", "parents; fittest: the most accurate, pareto: by non-dominated sorting and "
                            "crowding over accuracy, latency and every size that is limited", choices=SURVIVAL)
    predictor: str = setting("none", "predictor of accuracy, fitted to all evaluations so far before each round; "
                             "lightgbm: the most promising of many mutants and crossovers are evaluated",
                             choices=PREDICTORS)
    predictor_pool: int = setting(20, "subnets that the predictor is asked about for each one evaluated", low=1,
                                  high=10_000, needs="predictor")
    sizes: GenerationSizes = field(default_factory=GenerationSizes)
    size_limits: SizeLimits = field(default_factory=SizeLimits)
    arch_mutate_prob: float = setting(0.3, "probability that a stage of a mutant changes", low=0, high=1,
                                      needs="method=evolution")
    resolution_mutate_prob: float = setting(0.5, "probability that the resolution of a mutant changes", low=0, high=1,
                                            needs="method=evolution")
    rounds: int = setting(20, "rounds after the start", low=0, unit="rounds", name="max_time_budget")
    max_evaluations: int = setting(0, "most subnets to evaluate; 0: no bound", low=0)
    fitness: str = setting("", "training-free score in place of the int8 accuracy, such as NASWOT; no checkpoint, no "
                           "images are read", shown="accuracy")
    resolutions: tuple[int, ...] = setting((), "resolutions of the subnets that are scored", many="+", needs="fitness",
                                           shown="all of the superspace", **PIXELS)
    num_classes: int = setting(1000, "classes of the subnets that are scored", low=1, needs="fitness")
    prefilter: str = setting("", "training-free score of the subnets within the latencies; of each round the best "
                             "--prefilter_keep by it are evaluated", shown="none")
    prefilter_keep: float = setting(0.5, "share of the subnets that --prefilter keeps", above=0, high=1,
                                    needs="prefilter")
    seed: int = replace(SEED, name="manual_seed").field()

    def __post_init__(self):
        check_settings(self)
        check_limited(self.limits, self.size_limits)
        given = f"--latency_constraint {' '.join(f'{v:g}' for v in self.limits)}"
        if len(self.limits) % self.devices:
            raise UserError(f"{given}: {len(self.limits)} limits for {self.devices} platforms; expected one for each, "
                            "in the order of --platform, once or several times")
        if len(set(self.windows)) < len(self.windows):
            raise UserError(f"{given}: a limit is given twice")

    @property
    def identity(self) -> dict:
        """Settings that a continued search must keep: all but the number of rounds, and those of the subnets, which
        their fitness has."""
        return {name: value for name, value in asdict(self).items()
                if name not in ("rounds", "resolutions", "num_classes")}

    @property
    def windows(self) -> list[Window]:
        """One window for each group of limits that hold at once; without limits one window for every latency."""
        if not self.limits:
            return [Window((), self.delta)]
        return [Window(self.limits[i:i + self.devices], self.delta)
                for i in range(0, len(self.limits), self.devices)]
