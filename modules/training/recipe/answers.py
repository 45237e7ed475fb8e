"""Answers of a teacher to all training images, given once, in place of one in every step."""
from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from modules.datasets.build import Data
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.training.config import TrainConfig
from modules.training.recipe.distillation import Teacher
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint, save_checkpoint

ANSWERS = "teacher_answers.pth"  # beside the checkpoints
_FORM = {"of": dict, "answers": torch.Tensor}


def teacher_answers(path: Path, teacher: Teacher, data: Data, config: TrainConfig,
                    tell: Callable[[str], None]) -> torch.Tensor:
    """The teacher's logits of every training image, float16 (images of the source, K), such as (50000, 10), on its
    device; 0 for images that are held out.

    An image is seen as in evaluation. If the data set allows it, its mirror image is seen too, and the logits are the
    mean of both: the student sees one of them at a time. The processes share the images.

    Args:
        path: the file that keeps the answers. It is read if it holds those of the same teacher to the same images.
        config: of the training, with the size of the batches.
        tell: gets a line with the share of images that the teacher gets right.
    """
    device = next(teacher.net.parameters()).device
    identity = _identity(teacher, data)
    if dist.on_first(lambda: path.is_file() and load_checkpoint(path, "file of answers", _FORM)["of"] == identity):
        return load_checkpoint(path, "file of answers", _FORM)["answers"].to(device)
    answers = dist.all_sum(_ask(teacher, data, config, device)).half()
    labels = torch.from_numpy(data.train.labels).to(device)
    right = (answers.argmax(1) == labels)[torch.from_numpy(data.train_indices).to(device)].double().mean().item()
    tell(f"the teacher has answered {len(data.train_indices)} training images, {100 * right:.2f} % of them rightly")
    dist.on_first(lambda: save_checkpoint(path, {"of": identity, "answers": answers.cpu()}))
    return answers


def _ask(teacher: Teacher, data: Data, config: TrainConfig, device: torch.device) -> torch.Tensor:
    """This process's share of the answers; 0 for all others."""
    indices = data.train_indices[dist.rank()::dist.world_size()]
    batches = eval_batches(data.train, indices, eval_transform(teacher.net.resolution, data.info),
                           batch_size=config.batch_size_per_gpu, num_workers=config.data_loader_workers_per_gpu)
    answers = []
    for images, _ in tqdm(batches, desc="answers of the teacher",
                          disable=not (dist.rank() == 0 and sys.stderr.isatty())):
        images = images.to(device)
        logits = teacher(images)[1]
        answers.append((logits + teacher(images.flip(3))[1]) / 2 if data.info.hflip else logits)
    found = torch.zeros(len(data.train), answers[0].shape[1], device=device)
    found[torch.from_numpy(indices).to(device)] = torch.cat(answers)
    return found


def _identity(teacher: Teacher, data: Data) -> dict:
    """What the answers depend on. Statistics of batch norm are left out: they follow from the rest, up to rounding."""
    weights, images = hashlib.sha256(), hashlib.sha256(data.train_indices.tobytes())
    for name, tensor in teacher.net.state_dict().items():
        if "running_" not in name:
            weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    images.update(data.train.labels.tobytes())
    return {"weights": weights.hexdigest(), "images": images.hexdigest(), "data set": data.info.name,
            "mirrored": data.info.hflip, "resolution": teacher.net.resolution, "crop": data.info.eval_crop}
