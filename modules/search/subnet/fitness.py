"""Int8 accuracy as the fitness of a subnet: each process evaluates other subnets, on all images."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.training.arguments import Images
from modules.training.evaluation import Accuracy
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils import dist
from modules.utils.errors import UserError
from modules.utils.files import file_digest


@dataclass(frozen=True)
class Fitness:
    """The fitness of a subnet search: the evaluation of subnets, and a mark for a test of the best.

    Args:
        evaluate: a function of (subnets, test=False) that yields an `Accuracy` for each, in order.
        identity: the values that results depend on, for the state of the search.
        notes: lines for the user.
        tested: whether images remain for a test.
        label: name and unit, for the figure.
        weight_bits: bits of the supernet's int8 weights.
    """

    subnets: SubnetSpace
    num_classes: int
    evaluate: Callable[..., Iterable[Accuracy]]
    identity: dict
    notes: list[str]
    tested: bool
    label: str = "int8 top-1, %"
    weight_bits: int = 8


class SharedEvaluation:
    """Evaluates lists of subnets on all processes. The first process calls it, the others `serve`.

    As a context of the first process it ends the others' service after a search, even a refused one.
    """

    def __init__(self, evaluator: SubnetEvaluator):
        self.evaluator = evaluator

    def __enter__(self) -> SharedEvaluation:
        return self

    def __exit__(self, kind, *_) -> None:
        # After any other error the processes may be in different collectives; the launcher ends them.
        if kind is None or issubclass(kind, UserError):
            dist.broadcast_object(None)

    def __call__(self, choices: Sequence[SubnetChoiceConfig], test: bool = False) -> Iterator[Accuracy]:
        """Accuracies on the validation or the test images, in order; one for each process at a time."""
        step = dist.world_size()
        for start in range(0, len(choices), step):
            yield from self._evaluate(dist.broadcast_object((choices[start:start + step], test)))

    def serve(self) -> None:
        """Evaluate the subnets of the first process, until it is done."""
        while work := dist.broadcast_object(None):
            self._evaluate(work)

    def _evaluate(self, work: tuple[Sequence[SubnetChoiceConfig], bool]) -> list[Accuracy]:
        choices, test = work
        mine, number = None, dist.rank()
        if number < len(choices):
            with dist.alone():
                mine = self.evaluator.accuracy(choices[number], test)
        return dist.gather_objects(mine)[:len(choices)]


def make_alone_evaluator(path: Path, space: SupernetConfig, images: Images, **evaluator) -> SubnetEvaluator:
    """The evaluator of lsq.pth at `path`; each process loads all `images`. `evaluator`: more of its arguments."""
    with dist.alone():
        return SubnetEvaluator.open(
            path, space, quant_mode=True, dataset=images.dataset, dataset_path=images.dataset_path,
            augment=images.augment, num_workers=images.data_loader_workers_per_gpu, **evaluator)


def accuracy_fitness(evaluator: SubnetEvaluator, evaluation: SharedEvaluation) -> Fitness:
    """Int8 accuracy in a trained supernet."""
    return Fitness(evaluator.model.subnets, evaluator.model.num_classes, evaluation, fitness_identity(evaluator),
                   fitness_notes(evaluator), bool(evaluator.valid_size), weight_bits=evaluator.record.quant.nbits_w)


def fitness_identity(evaluator: SubnetEvaluator) -> dict:
    """Everything that accuracies depend on, for the state of a search: the checkpoint's contents, the images,
    calibration."""
    digest = file_digest(evaluator.path)[:16]
    return {"supernet": str(evaluator.space), "checkpoint": digest, "dataset": evaluator.data.info.name,
            "valid_size": evaluator.valid_size, "images": len(evaluator.data.valid_indices),
            "augment": evaluator.augment, "batch_size": evaluator.batch_size,
            "calibration_batches": evaluator.calibration_batches, "limit_batches": evaluator.limit_batches}


def fitness_notes(evaluator: SubnetEvaluator) -> list[str]:
    """Lines about the images of the fitness."""
    size = evaluator.valid_size
    if not size:
        return ["fitness: accuracy on the validation set; no images are left for a test of the subnets found"]
    return [f"fitness: accuracy on {size} training images; the best subnets are tested on the validation set"]
