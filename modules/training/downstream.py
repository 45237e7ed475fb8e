"""Fine-tuning of a trained subnet on another data set: the recipes, and the settings of a training run from them."""
from __future__ import annotations

from pathlib import Path

from modules.modeling.public_weights.forms import find_form
from modules.modeling.restore import find_checkpoint, record_in
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.training.config import TrainConfig
from modules.training.trainer import SupernetTrainer
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint, save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import write_manifest

# Published learning rates for batches of 128 images.
LEARNING_RATES = {"CIFAR10": 0.0125, "CIFAR100": 0.0125, "Flowers102": 0.15, "OxfordIIITPet": 0.00375, "Food101": 0.15,
                  "StanfordCars": 0.15, "FGVCAircraft": 0.075}
OTHER_RATE = 0.0125  # of data sets that are not published
_BATCH = 128


def fine_tune(name: str, supernet: str, space: SupernetConfig, choice: SubnetChoiceConfig, *, dataset: str,
              checkpoint: str = "checkpoints/supernet_training", output: str = "checkpoints/downstream_cls",
              int8: bool = True, resume: bool = False, overwrite: bool = False, device=None,
              **settings) -> tuple[Path, float]:
    """Fine-tune a subnet, named as by `read_network`, on `dataset`.

    Args:
        checkpoint: the supernet's file, or the folder that holds it, as of `find_checkpoint`.
        output: folder of `<name>_<dataset>.pth`, without `int8` `<name>_<dataset>_fp32.pth`, and of the run's own
            files.
        resume, overwrite, device: as of `SupernetTrainer`.
        settings: as of `downstream_config`.

    Returns:
        The file, and the accuracy in percent after the last epoch.
    """
    start = find_checkpoint(checkpoint, space, int8, supernet=supernet)
    folder = Path(output) / f"{name}_{dataset}{'' if int8 else '_fp32'}"
    config = downstream_config(start, choice, dataset=dataset, int8=int8, models_save_dir=str(folder), **settings)
    trainer = SupernetTrainer(config, space, quant_mode=int8, resume=resume, overwrite=overwrite, device=device,
                             option="--output_dir")
    trainer.run()
    target, accuracy = Path(f"{folder}.pth"), trainer.history[-1]["subnet"]

    def write() -> None:
        trained = load_checkpoint(trainer.path)
        save_checkpoint(target, {key: trained[key] for key in ("epoch", "state_dict", "config")})
        write_manifest(target, subnet=str(choice), supernet=str(space), start=str(start), acc1=accuracy)

    dist.on_first(write)
    return target, accuracy


def downstream_config(start: Path, choice: SubnetChoiceConfig, *, dataset: str, int8: bool, learning_rate: float = 0.0,
                      **settings) -> TrainConfig:
    """Settings of a run that fine-tunes subnet `choice` of the supernet in `start` on `dataset`.

    SGD with Nesterov momentum, linear warm-up and decay, gradients clipped by their norm. The weights of convolutions
    and of the classifier decay. In int8 the quantisers have the placement of `start`.

    Args:
        start: lsq.pth, or checkpoint.pth in fp32.
        dataset: as of `load_data`.
        learning_rate: for batches of 128 images, in proportion for others; 0: the data set's.
        settings: of `TrainConfig`.

    Raises:
        UserError: `start` is missing, not a checkpoint, or an fp32 one with `int8`.
    """
    rate = learning_rate or LEARNING_RATES.get(dataset, OTHER_RATE)
    return TrainConfig(
        dataset=dataset, subnet_choice=str(choice), resolutions=(choice.resolution,), init_checkpoint=str(start),
        new_head=True, base_lr=rate * 256 / _BATCH, schedule="linear", grad_clip_value=0.0, dropout=0.0,
        **(_quantisers(start) if int8 else {}), **settings)


def _quantisers(start: Path) -> dict:
    """The settings of the quantisers in an int8 checkpoint."""
    checkpoint = load_checkpoint(start)
    if "config" not in checkpoint and not find_form(checkpoint):
        return {}  # a published one
    record = record_in(checkpoint)
    quant = record.quant if record else None
    if quant is None:
        raise UserError(f"checkpoint {str(start)!r} is an fp32 one, where --fp32 starts; int8 starts from the lsq.pth "
                        "that train_supernet.py --quant_mode writes")
    return {"placement": quant.placement, "quant_weight_bits": quant.nbits_w}
