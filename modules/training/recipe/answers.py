"""Answers of teachers to all training images, given once, in place of one in every step."""
from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from modules.datasets.build import Data
from modules.datasets.classes import check_same_classes
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.modeling.network import QNetwork, resize
from modules.modeling.restore import ModelRecord
from modules.runtime.engines import is_model_file, open_model
from modules.runtime.metadata import has_class_names, model_name, read_classes, read_preprocessing
from modules.runtime.session import check_finite, predict_logits
from modules.search_space.preprocessing import Preprocessing
from modules.training.config import TrainConfig
from modules.training.recipe.distillation import load_teacher
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import file_digest
from modules.utils.notes import say

ANSWERS = "teacher_answers.pth"  # beside the checkpoints
_FORM = {"of": list, "answers": torch.Tensor}


@dataclass(frozen=True)
class Answerer:
    """A teacher that answers each image once.

    Attributes:
        logits: of images (N, 3, S, S) on the device, preprocessed as it `saw` them: float32 (N, K) there.
        saw: the images of its own evaluation.
        digest: of its weights, with the size at which it sees images.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    saw: Preprocessing
    digest: str


def open_teachers(config: TrainConfig, record: ModelRecord, data: Data, device: torch.device) -> list[Answerer]:
    """The teachers of `config` that answer once, for a student with `record`.

    Raises:
        UserError: an unknown network, no checkpoint or file, other classes than the data set's.
    """
    if not config.teacher_once or not config.teacher:
        return []
    if config.augment != "shift":
        say(f"--teacher_once with --augment {config.augment}: the teachers answer whole images, the student sees parts "
            "of them; --augment shift, or a teacher that answers in every step, fits better")
    return [_of_file(name, record, data) if is_model_file(name)
            else _of_network(*load_teacher(name, config, record, data, device)) for name in config.teacher]


def _of_network(net: QNetwork, known: ModelRecord, digest: str) -> Answerer:
    def logits(images):
        with torch.no_grad():
            return net(images).float()
    size = net.resolution if known.any_resolution else max(known.crop_size, net.resolution)
    return Answerer(logits, Preprocessing(size, known.eval_crop, known.mean, known.std),
                    f"{digest} at {net.resolution} pixels")


def _of_file(path: str, record: ModelRecord, data: Data) -> Answerer:
    session = open_model(path)
    metadata, resolution = session.metadata, session.get_inputs()[0].shape[-1]
    where = model_name(metadata)
    if has_class_names(metadata):
        check_same_classes(read_classes(metadata), record.classes, path)

    def logits(images):
        found = predict_logits(session, resize(images, resolution).cpu().numpy())
        check_finite(found, where)
        if found.shape[1] != len(record.classes):
            raise UserError(f"{where} has {found.shape[1]} outputs, the data set has {len(record.classes)} classes; "
                            "allowed: as many, in the same order")
        return torch.from_numpy(found).float().to(images.device)

    saw = read_preprocessing(metadata, data.preprocessing(resolution))
    return Answerer(logits, saw, file_digest(path))


def teacher_answers(path: Path, teachers: Sequence[Answerer], data: Data, config: TrainConfig, device: torch.device,
                    tell: Callable[[str], None]) -> torch.Tensor:
    """The mean of the teachers' logits of every training image, float16 (images of the source, K), such as (50000, 10),
    on `device`; 0 for images that are held out.

    Every teacher sees an image as in its own evaluation. If the data set allows it, it sees the mirror image too, and
    the mean of both counts: the student sees one of them at a time. The processes share the images.

    Args:
        path: the file that keeps the answers. It is read if it holds those of the same teachers to the same images.
        config: of the training, with the size of the batches.
        tell: gets a line with the share of images that the teachers get right.
    """
    identity = _identity(teachers, data)
    kept = load_checkpoint(path, "file of answers", _FORM) if path.is_file() else {}
    if all(dist.gather_objects(kept.get("of") == identity)):
        return kept["answers"].to(device)
    path.parent.mkdir(parents=True, exist_ok=True)  # fails now, not after the teachers were asked
    answers = dist.all_sum(sum(_ask(teacher, data, config, device) for teacher in teachers) / len(teachers)).half()
    labels = torch.from_numpy(data.train.labels).to(device)
    right = (answers.argmax(1) == labels)[torch.from_numpy(data.train_indices).to(device)].double().mean().item()
    tell(f"{len(data.train_indices)} training images answered by {len(teachers)} "
         f"teacher{'s' * (len(teachers) > 1)}, {100 * right:.2f} % of them rightly")
    dist.on_first(lambda: save_checkpoint(path, {"of": identity, "answers": answers.cpu()}))
    return answers


def _ask(teacher: Answerer, data: Data, config: TrainConfig, device: torch.device) -> torch.Tensor:
    """This process's share of the answers of one teacher; 0 for all other images."""
    data, answers = data.preprocessed(teacher.saw), []
    indices = data.train_indices[dist.rank()::dist.world_size()]
    batches = eval_batches(data.train, indices, eval_transform(teacher.saw.crop_size, data.info),
                           batch_size=config.batch_size_per_gpu, num_workers=config.data_loader_workers_per_gpu)
    for images, _ in tqdm(batches, desc="answers of a teacher",
                          disable=not (dist.rank() == 0 and sys.stderr.isatty())):
        images = images.to(device)
        logits = teacher.logits(images)
        answers.append((logits + teacher.logits(images.flip(3))) / 2 if data.info.hflip else logits)
    found = torch.zeros(len(data.train), answers[0].shape[1], device=device)
    found[torch.from_numpy(indices).to(device)] = torch.cat(answers)
    return found


def _identity(teachers: Sequence[Answerer], data: Data) -> list:
    """Plain values on which the answers depend."""
    order = hashlib.sha256(data.train_indices.tobytes() + data.train.labels.tobytes()).hexdigest()
    return [data.info.name, order, data.train.digest(), data.info.hflip,
            *([t.digest, t.saw.crop_size, t.saw.eval_crop, *t.saw.mean, *t.saw.std] for t in teachers)]
