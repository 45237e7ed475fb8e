"""Validation of a supernet in training."""
from __future__ import annotations

import itertools

from modules.datasets.build import Data
from modules.datasets.loading import eval_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.search_space.config import SubnetChoiceConfig
from modules.training.calibration import load_calibration_images
from modules.training.config import TrainConfig
from modules.training.evaluation import Accuracy, evaluate, extract_calibrated
from modules.training.sandwich import step_generator
from modules.utils import dist

_VALIDATION_STREAM = 2**20  # an epoch that no training reaches: its draws give the random subnet


def validate_subnets(model: Supernet, data: Data, record: ModelRecord, config: TrainConfig,
                     epoch: int) -> dict[str, Accuracy]:
    """Accuracy on the validation part of the largest, the smallest and one random subnet (`max`, `min`, `random`), or
    of the only one in training (`subnet`). Each is calibrated on training images. `epoch` decides the random one."""
    d, c = data, config
    calibration = load_calibration_images(
        d, train_transform(c.augment, record.crop_size, d.info), c.post_bn_calibration_batch_num,
        batch_size=c.batch_size_per_gpu, seed=c.seed, num_workers=c.data_loader_workers_per_gpu)
    space, rng = model.subnets, step_generator(c.seed, _VALIDATION_STREAM, epoch)
    if c.subnet_choice:
        chosen = {"subnet": SubnetChoiceConfig.from_str(c.subnet_choice)}
    else:
        chosen = {"max": space.extreme(max), "min": space.extreme(min), "random": space.sample(rng, c.align_sample)}
    results = {}
    for name, choice in chosen.items():
        batches = eval_batches(d.valid, d.valid_indices, eval_transform(record.crop_size, d.info),
                               batch_size=c.eval_batch_size_per_gpu, rank=dist.rank(),
                               world_size=dist.world_size(), num_workers=c.data_loader_workers_per_gpu)
        if c.valid_batches:
            batches = itertools.islice(batches, c.valid_batches)
        results[name] = evaluate(extract_calibrated(model, choice, calibration), batches, f"subnet {choice}")
    return results
