"""Accuracy of a deployed model, with the data set and the preprocessing in its metadata."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from modules.datasets.announce import announce
from modules.datasets.build import load_data
from modules.datasets.classes import follow_classes
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform
from modules.deploy.check.agreement import predict_batches
from modules.runtime.metadata import has_class_names, model_name, read_classes, read_preprocessing
from modules.runtime.session import Session
from modules.training.evaluation import Accuracy
from modules.utils.errors import UserError


def dataset_of(metadata: dict[str, str], dataset: str = "", dataset_path: str = "") -> str:
    """The name of the data set that a model is evaluated on: that given, or that of its metadata; "" for a path."""
    return dataset or ("" if dataset_path else metadata.get("dataset", ""))


def session_accuracy(session: Session, metadata: dict[str, str], dataset: str = "", dataset_path: str = "",
                     batch_size: int = 50) -> tuple[Accuracy, np.ndarray]:
    """Accuracy of `session` on the whole official validation set, and whether each image is right, (N,) in the order of
    the set.

    Args:
        session: of onnxruntime, or used like one.
        metadata: of the model. Its `dataset`, `crop_size` and `eval_crop` are used unless others are given.
        dataset, dataset_path: as of `load_data`.

    Raises:
        UserError: a data set that is unknown or not there, or has classes that the model does not know; a model with
            another number of outputs than classes.
    """
    dataset = dataset_of(metadata, dataset, dataset_path)
    resolution, model = session.get_inputs()[0].shape[-1], model_name(metadata)
    data = load_data(dataset or None, dataset_path or None)
    seen = read_preprocessing(metadata, data.preprocessing(resolution))
    data = data.preprocessed(seen)
    announce(data, [resolution])
    classes = read_classes(metadata) if "classes" in metadata else data.info.classes
    data = follow_classes(data, classes, model, has_class_names(metadata))
    transform = eval_transform(seen.crop_size, data.info)
    batches = eval_batches(data.test, data.test_indices, transform, batch_size=batch_size)
    right, right5, loss = [], 0, 0.0
    for _, logits, labels in predict_batches(session, batches, model):
        if logits.shape[1] != len(classes):
            raise UserError(f"{model} has {logits.shape[1]} outputs for {len(classes)} classes; allowed: as many")
        # Integer logits may tie: the first class wins, as everywhere.
        top = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels.numpy()[:, None]
        right.append(top[:, 0])
        right5 += top.sum()
        loss += F.cross_entropy(torch.from_numpy(logits), labels, reduction="sum").item()
    right = np.concatenate(right)
    images = len(right)
    return Accuracy(100 * float(right.mean()), 100 * float(right5) / images, loss / images, images), right
