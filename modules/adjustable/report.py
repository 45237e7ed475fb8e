"""Files of a run besides its networks: bits, ranges, counts, tables and figures."""
from __future__ import annotations

import torch

from modules.adjustable.figures import draw_bits, draw_curves, draw_front
from modules.adjustable.files import (
    MODEL_INFO,
    QUANT_INFO,
    THRESHOLDS,
    write_model_info,
    write_quant_info,
    write_thresholds,
)
from modules.adjustable.network import AdjustableNetwork
from modules.adjustable.points import STATE, write_points
from modules.utils.checkpoint import save_checkpoint
from modules.utils.files import write_manifest
from modules.utils.results import write_rows

AVERAGE, AVERAGE_BITS, HISTORY = "adj_swa.pth", "quant_info_swa.json", "history.csv"
REPORTS = (f"{STATE}.json", AVERAGE, f"{AVERAGE}.json", QUANT_INFO, AVERAGE_BITS, THRESHOLDS, MODEL_INFO, HISTORY,
           "curves.png", "bits.png", "front.png")


def write_report(trainer) -> None:
    """The files of the last network, before its weights are averaged: all of them tell of `adj.pth`."""
    folder, network, last = trainer.folder, trainer.network, trainer.history[-1]
    layers, biases, _ = network.costs()
    write_quant_info(folder / QUANT_INFO, network.published, *network.bits())
    write_thresholds(folder / THRESHOLDS, network.placement, *network.ranges())
    write_model_info(folder / MODEL_INFO, network.placement, layers, biases)
    draw_bits(network, folder / "bits.png")
    _write_history(trainer)
    _write_manifest(trainer, STATE, last)


def write_average(trainer) -> None:
    """The averaged network and its files."""
    save_checkpoint(trainer.folder / AVERAGE, trainer.model_state())
    write_quant_info(trainer.folder / AVERAGE_BITS, trainer.network.published, *trainer.network.bits())
    write_points(trainer.folder, trainer.points)
    _write_history(trainer)
    _write_manifest(trainer, AVERAGE, trainer.history[-1])


def _write_history(trainer) -> None:
    folder, config = trainer.folder, trainer.config
    write_rows(folder / HISTORY, trainer.history)
    draw_curves(trainer.points, trainer.trace, config.metric, config.dead_band, folder / "curves.png")
    draw_front(trainer.points, config.metric, folder / "front.png")


def _write_manifest(trainer, name: str, entry: dict) -> None:
    write_manifest(trainer.folder / name, subnet=str(trainer.choice), checkpoint=str(trainer.evaluator.path),
                   seed=trainer.config.seed, **{key: entry[key] for key in ("top1", "score")})


@torch.no_grad()
def bit_table(network: AdjustableNetwork) -> list[dict]:
    """Mean bits of every layer's weight and input, for a table."""
    return [{"layer": cost.name, "weight bits": f"{cost.weight_bits.mean():.2f}",
             "input bits": "8 (image)" if cost.input_bits is None else f"{cost.input_bits.mean():.2f}"}
            for cost in network.costs()[0]]
